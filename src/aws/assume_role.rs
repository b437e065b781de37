//! Credentials of an IAM role, assumed with the controller's own credentials.

use aws_config::SdkConfig;
use aws_credential_types::{
    Credentials,
    provider::{self, ProvideCredentials, error::CredentialsError, future},
};
use aws_sdk_sts::types;

use crate::{
    CONTROLLER,
    aws::{
        credentials::RotatingCredentials,
        credentials_error::{NotLoaded, cannot_assume},
        response::{Failure, FailureKind},
    },
};

/// A role to assume.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AssumedRole {
    pub arn: String,
    pub external_id: Option<String>,
}

/// Credentials provider that calls `sts:AssumeRole`.
///
/// The session name is fixed, so that the role's trust policy can require it. The duration is not
/// set: with role chaining, as with IRSA, AWS allows at most one hour, its default.
/// Source: `AssumeRole` in the AWS STS API Reference.
#[derive(Debug)]
pub(super) struct AssumeRole {
    sts: aws_sdk_sts::Client,
    role: AssumedRole,
    /// The controller's own credentials, and STS in their default region.
    own: (RotatingCredentials, Option<aws_sdk_sts::Client>),
}

impl AssumeRole {
    /// Creates a provider that uses the credentials and the region of `config`, which are those of
    /// `own`.
    pub(super) fn new(
        config: &SdkConfig,
        role: AssumedRole,
        own: (RotatingCredentials, Option<aws_sdk_sts::Client>),
    ) -> Self {
        Self { sts: aws_sdk_sts::Client::new(config), role, own }
    }

    /// Assumes the role, and once more if the controller's own credentials were rejected and
    /// replaced.
    async fn assume(&self) -> provider::Result {
        let (own, default_sts) = &self.own;
        let access_key = own.provide_credentials().await?.access_key_id().to_owned();
        match self.call().await {
            Err(failure) if own.discard_if_rejected(&access_key, &failure, default_sts.as_ref()).await => {
                self.call().await
            }
            result => result,
        }
        .map_err(|failure| CredentialsError::provider_error(NotLoaded(failure)))
    }

    async fn call(&self) -> Result<Credentials, Failure> {
        let call = self.sts.assume_role().role_arn(&self.role.arn).role_session_name(CONTROLLER);
        let response = call.set_external_id(self.role.external_id.clone()).send().await;
        let response = response.map_err(|error| cannot_assume(&error, &self.role.arn))?;
        response.credentials().and_then(credentials).ok_or_else(|| {
            let text = "the response of sts:AssumeRole has no usable credentials";
            Failure::new(FailureKind::Unavailable, text)
        })
    }
}

fn credentials(assumed: &types::Credentials) -> Option<Credentials> {
    let expiry = (*assumed.expiration()).try_into().ok()?;
    let (key, secret) = (assumed.access_key_id(), assumed.secret_access_key());
    let token = Some(assumed.session_token().to_owned());
    Some(Credentials::new(key, secret, token, Some(expiry), "AssumeRole"))
}

impl ProvideCredentials for AssumeRole {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.assume())
    }
}
