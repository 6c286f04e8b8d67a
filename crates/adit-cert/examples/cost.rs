//! What certificates cost: memory and time of 1, 1,000 and 100,000 of them, on standard output.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement for people")]

use std::time::{Duration, Instant, SystemTime};

use adit_cert::{Certificate, Name, Requirements, Store};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SerialNumber};

fn main() {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "root");
    let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "between");
    let between = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &root).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = |serial: u64| {
        let mut params = CertificateParams::new(vec![format!("peer-{serial}.example.org")]).unwrap();
        params.distinguished_name.push(DnType::CommonName, format!("peer-{serial}"));
        params.serial_number = Some(SerialNumber::from(serial));
        params.signed_by(&key, &between).unwrap().der().to_vec()
    };
    let mut store = Store::default();
    store.add_authority(Certificate::from_der(root.der()).unwrap()).unwrap();
    let sent = [Certificate::from_der(between.der()).unwrap()];
    println!("certificates   octets each   memory each   reading   names()   verify, 2 signatures of P-256");
    for count in [1_u64, 1_000, 100_000] {
        let ders: Vec<Vec<u8>> = (0..count).map(leaf).collect();
        let octets = ders.iter().map(Vec::len).sum::<usize>();
        let before = resident();
        let start = Instant::now();
        let certificates: Vec<Certificate> =
            ders.iter().map(|der| Certificate::from_der(der).unwrap()).collect();
        let reading = start.elapsed();
        let memory = resident().saturating_sub(before);
        let start = Instant::now();
        let named = certificates.iter().filter(|c| c.names(&Name::Dns("peer-0.example.org"))).count();
        let naming = start.elapsed();
        assert_eq!(named, 1);
        let verified = certificates.iter().take(10_000);
        let number = u32::try_from(verified.len()).unwrap();
        let start = Instant::now();
        let now = SystemTime::now();
        for certificate in verified {
            store.verify(certificate, &sent, &Requirements::default(), now).unwrap();
        }
        let verifying = start.elapsed() / number;
        let each = |total: Duration| total / u32::try_from(count).unwrap();
        println!(
            "{count:>12} {:>13} {:>13} {:>9.1?} {:>9.1?} {verifying:>31.1?}",
            octets / certificates.len(),
            memory / certificates.len(),
            each(reading),
            each(naming)
        );
    }
}

/// Memory in use, in octets.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4_096
}
