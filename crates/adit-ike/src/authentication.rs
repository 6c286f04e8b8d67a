//! What a configuration says of authentication: how we prove who we are, and what a peer has to prove.
//!
//! Owns the settings of `local` and `remote` of a connection, never a key: keys are among the credentials of the gateway.

use adit_cert::{Certificate, Requirements};

use crate::constraints::Constraints;

/// `local.auth`: how we prove who we are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LocalAuth {
    /// By a pre-shared key.
    #[default]
    Psk,
    /// By a signature.
    PublicKey {
        /// `certs`: the certificates to choose from, in order of preference.
        certificates: Vec<Certificate>,
        /// The rest of `auth`: which signatures we make.
        constraints: Constraints,
    },
}

impl LocalAuth {
    /// May IKE SAs made of the one be the other's? A certificate that is renewed comes into play when the peers authenticate
    /// anew.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        (*self == Self::Psk) == (*other == Self::Psk)
    }
}

/// `remote.auth`: what the peer has to prove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RemoteAuth {
    /// That it knows the pre-shared key.
    #[default]
    Psk,
    /// That it holds the key of a certificate that names it and that we trust.
    PublicKey {
        /// `certs`, `cacerts`, `ca_id`, `cert_policy`, `revocation`: which certificates are good enough.
        requirements: Requirements,
        /// The rest of `auth`: which keys and signatures are.
        constraints: Constraints,
    },
}

/// `send_cert`: when our certificate is sent with our signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SendCert {
    /// If the peer asks for one.
    #[default]
    IfAsked,
    /// Always.
    Always,
    /// Never: the peer has it.
    Never,
}
