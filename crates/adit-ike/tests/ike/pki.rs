//! Authorities, certificates and keys for tests, made as they are wanted.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use adit_cert::{Certificate, Requirements, Store};
use adit_crypto::{PrivateKey, Signer};
use adit_ike::config::{Constraints, LocalAuth, RemoteAuth};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    RsaKeySize, SanType,
};

use crate::pair::{Side, sides};

/// Kinds of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Rsa2048,
    Rsa3072,
    Rsa4096,
    P256,
    P384,
    P521,
    Ed25519,
}

impl Kind {
    pub(crate) const ALL: [Self; 7] =
        [Self::Rsa2048, Self::Rsa3072, Self::Rsa4096, Self::P256, Self::P384, Self::P521, Self::Ed25519];

    /// A key that is the same for all tests where it takes long to make one.
    pub(crate) fn key(self) -> KeyPair {
        static RSA: LazyLock<[String; 3]> = LazyLock::new(|| {
            [RsaKeySize::_2048, RsaKeySize::_3072, RsaKeySize::_4096]
                .map(|size| KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size).unwrap().serialize_pem())
        });
        let algorithm = match self {
            Self::Rsa2048 => return KeyPair::from_pem(&RSA[0]).unwrap(),
            Self::Rsa3072 => return KeyPair::from_pem(&RSA[1]).unwrap(),
            Self::Rsa4096 => return KeyPair::from_pem(&RSA[2]).unwrap(),
            Self::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Self::P521 => &rcgen::PKCS_ECDSA_P521_SHA512,
            Self::Ed25519 => &rcgen::PKCS_ED25519,
        };
        KeyPair::generate_for(algorithm).unwrap()
    }
}

fn subject(name: &str) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    dn.push(DnType::OrganizationName, "Adit");
    dn.push(DnType::CommonName, name);
    dn
}

/// An authority.
pub(crate) struct Ca {
    pub(crate) certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn parameters(name: &str) -> CertificateParams {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = subject(name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        parameters
    }

    pub(crate) fn root(name: &str, kind: Kind) -> Self {
        let (parameters, key) = (Self::parameters(name), kind.key());
        let certificate = parameters.self_signed(&key).unwrap();
        let certificate = Certificate::from_der(certificate.der()).unwrap();
        Self { certificate, issuer: Issuer::new(parameters, key) }
    }

    pub(crate) fn intermediate(&self, name: &str, kind: Kind) -> Self {
        let (parameters, key) = (Self::parameters(name), kind.key());
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let certificate = Certificate::from_der(certificate.der()).unwrap();
        Self { certificate, issuer: Issuer::new(parameters, key) }
    }

    /// A certificate for `CN=name` with these alternative names.
    pub(crate) fn issue(&self, name: &str, alternative: &[SanType], kind: Kind) -> Holder {
        self.issue_with(name, alternative, kind, |_| {})
    }

    pub(crate) fn issue_with(
        &self,
        name: &str,
        alternative: &[SanType],
        kind: Kind,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Holder {
        let key = kind.key();
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = subject(name);
        parameters.subject_alt_names = alternative.to_vec();
        change(&mut parameters);
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        Holder {
            certificate: Certificate::from_der(certificate.der()).unwrap(),
            key: Arc::new(PrivateKey::from_der(key.serialized_der()).unwrap()),
        }
    }

    /// For a host of this name.
    pub(crate) fn host(&self, name: &str, kind: Kind) -> Holder {
        self.issue(name, &[dns(name)], kind)
    }
}

pub(crate) fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

pub(crate) fn email(name: &str) -> SanType {
    SanType::Rfc822Name(name.try_into().unwrap())
}

pub(crate) fn address(address: IpAddr) -> SanType {
    SanType::IpAddress(address)
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    pub(crate) certificate: Certificate,
    pub(crate) key: Arc<dyn Signer>,
}

impl Holder {
    pub(crate) fn auth(&self) -> LocalAuth {
        LocalAuth::PublicKey {
            certificates: vec![self.certificate.clone()],
            constraints: Constraints::default(),
        }
    }
}

/// Anybody whom an authority of the gateway has certified.
pub(crate) fn by_certificate() -> RemoteAuth {
    RemoteAuth::PublicKey { requirements: Requirements::default(), constraints: Constraints::default() }
}

/// Gives a side its certificate, and lets it trust these authorities.
pub(crate) fn equip(side: &mut Side, own: &Holder, trusted: &[&Ca]) {
    side.keys = vec![Arc::clone(&own.key)];
    side.secrets = Vec::new();
    // Messages stay whole, to be looked into.
    side.settings.fragment_size = u16::MAX;
    side.trust = trust(trusted);
    side.connection().local_auth = own.auth();
    side.connection().remote_auth = by_certificate();
}

pub(crate) fn trust(authorities: &[&Ca]) -> Store {
    let mut store = Store::default();
    for ca in authorities {
        store.add_authority(ca.certificate.clone()).unwrap();
    }
    store
}

/// Two sides with certificates of one authority, each for its identity.
pub(crate) fn certified(kinds: [Kind; 2]) -> (Side, Side) {
    let ca = Ca::root("Root", Kind::P256);
    let (mut a, mut b) = sides();
    equip(&mut a, &ca.host("a.example", kinds[0]), &[&ca]);
    equip(&mut b, &ca.host("b.example", kinds[1]), &[&ca]);
    (a, b)
}
