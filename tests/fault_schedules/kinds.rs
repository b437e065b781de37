//! The kinds of resources that users create.

pub const NAMESPACE: &str = "platform";
pub const NAMESPACES: &str = "namespaces";
pub const RETIREMENTS: &str = "taskdefinitionretirements";
pub const POLICIES: &str = "taskdefinitionretentionpolicies";
pub const ACCOUNTS: &str = "ecsaccounts";

/// The kind of a resource.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    Retirement,
    Account,
    Policy,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Retirement => "TaskDefinitionRetirement",
            Self::Account => "EcsAccount",
            Self::Policy => "TaskDefinitionRetentionPolicy",
        }
    }

    pub fn plural(self) -> &'static str {
        match self {
            Self::Retirement => RETIREMENTS,
            Self::Account => ACCOUNTS,
            Self::Policy => POLICIES,
        }
    }

    /// Returns the namespace; empty for a cluster-scoped kind.
    pub fn namespace(self) -> &'static str {
        match self {
            Self::Retirement | Self::Policy => NAMESPACE,
            Self::Account => "",
        }
    }
}
