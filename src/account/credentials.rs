//! The credentials of the SDK's own chain, watched for change, so that an identity is never taken from others.

use std::sync::{Arc, Mutex, PoisonError};

use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, SharedCredentialsProvider, future},
};

/// Hands on the credentials of `inner` and remembers which they were.
#[derive(Clone, Debug)]
pub(crate) struct WatchedCredentials {
    inner: SharedCredentialsProvider,
    access_key_id: Arc<Mutex<Option<String>>>,
}

impl WatchedCredentials {
    pub(crate) fn new(inner: SharedCredentialsProvider) -> Self {
        Self { inner, access_key_id: Arc::default() }
    }

    /// The access key id of the credentials in use; `None` before their first use.
    pub(crate) fn access_key_id(&self) -> Option<String> {
        self.access_key_id.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, credentials: &Credentials) {
        let mut current = self.access_key_id.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Some(credentials.access_key_id().to_owned());
    }
}

impl ProvideCredentials for WatchedCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let credentials = self.inner.provide_credentials().await?;
            self.note(&credentials);
            Ok(credentials)
        })
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        self.inner.fallback_on_interrupt()
    }
}
