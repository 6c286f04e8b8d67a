//! Authorities that issue what a test wants, by rcgen.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adit_cert::{Certificate, Crl, Path, Rejected, Requirements, Store};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    CrlDistributionPoint, CrlIssuingDistributionPoint, DistinguishedName, DnType, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

/// 2026-06-01, by `date -u -d`.
pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_780_272_000)
}

pub(crate) fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Adit");
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    params
}

pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn params(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        change(&mut params);
        params
    }

    pub(crate) fn root_with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        Self(CertifiedIssuer::self_signed(Self::params(name, change), KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn root(name: &str) -> Self {
        Self::root_with(name, |_| {})
    }

    pub(crate) fn sub_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let params = Self::params(name, change);
        Self(CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &self.0).unwrap())
    }

    pub(crate) fn sub(&self, name: &str) -> Self {
        self.sub_with(name, |_| {})
    }

    pub(crate) fn certificate(&self) -> Certificate {
        Certificate::from_der(self.0.der()).unwrap()
    }

    pub(crate) fn leaf_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Certificate {
        let mut params = params(name);
        params.subject_alt_names = vec![SanType::DnsName(format!("{name}.example.org").try_into().unwrap())];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Certificate::from_der(params.signed_by(&key, &self.0).unwrap().der()).unwrap()
    }

    pub(crate) fn leaf(&self, name: &str) -> Certificate {
        self.leaf_with(name, |_| {})
    }

    /// The DER of a CRL of May 2026 that lists `revoked`, for a place if `place` says one.
    pub(crate) fn crl_der(&self, revoked: &[&Certificate], place: Option<&str>, months: (u8, u8)) -> Vec<u8> {
        let entry = |c: &&Certificate| RevokedCertParams {
            serial_number: SerialNumber::from_slice(c.serial()),
            revocation_time: date_time_ymd(2026, 2, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, months.0, 1),
            next_update: date_time_ymd(2026, months.1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: place.map(|url| CrlIssuingDistributionPoint {
                distribution_point: CrlDistributionPoint { uris: vec![url.to_owned()] },
                scope: None,
            }),
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().der().to_vec()
    }

    pub(crate) fn crl(&self, revoked: &[&Certificate]) -> Crl {
        Crl::from_der(&self.crl_der(revoked, None, (5, 7))).unwrap()
    }
}

pub(crate) fn store(authorities: &[&Ca]) -> Store {
    let mut store = Store::default();
    for ca in authorities {
        store.add_authority(ca.certificate()).unwrap();
    }
    store
}

pub(crate) fn plain(store: &Store, end: &Certificate, sent: &[Certificate]) -> Result<Path, Rejected> {
    store.verify(end, sent, &Requirements::default(), now())
}
