//! Certification authorities and certificates, made by OpenSSL's command line, which knows nothing of Adit.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::lab::need;
use crate::process::run;

/// What a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// RSA, with so many bits.
    Rsa(u32),
    /// ECDSA on a curve of OpenSSL's name.
    Ecdsa(&'static str),
    /// Ed25519.
    Ed25519,
}

/// A certificate with its private key, as files.
#[derive(Clone, Debug)]
pub struct Certified {
    /// The certificate in PEM.
    pub certificate: PathBuf,
    /// The key in PEM (PKCS#8).
    pub key: PathBuf,
}

/// What a certificate says, beside its key.
#[derive(Clone, Debug)]
pub struct Wanted<'w> {
    /// Name of the files, and the common name.
    pub name: &'w str,
    /// subjectAltName as OpenSSL writes it, like `DNS:a.example`.
    pub alt_name: Option<&'w str>,
    /// It is an authority.
    pub is_ca: bool,
    /// Not valid before and after: times as OpenSSL writes them; `None`: from now on for 30 days.
    pub validity: Option<(&'w str, &'w str)>,
}

impl<'w> Wanted<'w> {
    /// A gateway's.
    pub fn gateway(name: &'w str, alt_name: &'w str) -> Self {
        Self { name, alt_name: Some(alt_name), is_ca: false, validity: None }
    }

    /// An authority's.
    pub fn authority(name: &'w str) -> Self {
        Self { name, alt_name: None, is_ca: true, validity: None }
    }
}

/// A directory in which authorities work.
#[derive(Debug)]
pub struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// In a new directory.
    pub fn new(dir: PathBuf) -> Result<Self> {
        need("openssl", "openssl")?;
        std::fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    /// A certificate that `issuer` signs, or itself.
    pub fn issue(&self, key: Key, wanted: &Wanted<'_>, issuer: Option<&Certified>) -> Result<Certified> {
        let Wanted { name, alt_name, is_ca, validity } = *wanted;
        let made = Certified { certificate: self.file(name, "pem"), key: self.file(name, "key") };
        let mut generate = Command::new("openssl");
        generate.arg("genpkey").arg("-out").arg(&made.key);
        match key {
            Key::Rsa(bits) => {
                generate.args(["-algorithm", "RSA", "-pkeyopt", &format!("rsa_keygen_bits:{bits}")]);
            }
            Key::Ecdsa(curve) => {
                generate.args(["-algorithm", "EC", "-pkeyopt", &format!("ec_paramgen_curve:{curve}")]);
            }
            Key::Ed25519 => {
                generate.args(["-algorithm", "ED25519"]);
            }
        }
        run(&mut generate)?;
        let request = self.file(name, "csr");
        let subject = format!("/C=CH/O=Lab/CN={name}");
        run(Command::new("openssl")
            .args(["req", "-new", "-subj", &subject])
            .arg("-key")
            .arg(&made.key)
            .arg("-out")
            .arg(&request))?;
        // An authority's working directory, as `openssl ca` wants it.
        let (database, serial) = (self.dir.join("index.txt"), self.dir.join("serial"));
        if !database.exists() {
            std::fs::write(&database, "")?;
            std::fs::write(&serial, "1000\n")?;
            // A list without a number would be one of version 1.
            std::fs::write(self.dir.join("crlnumber"), "01\n")?;
        }
        let alt_name = alt_name.map(|names| format!("subjectAltName = {names}\n")).unwrap_or_default();
        let usage = if is_ca {
            "basicConstraints = critical,CA:TRUE\nkeyUsage = critical,keyCertSign,cRLSign\n"
        } else {
            "basicConstraints = CA:FALSE\nkeyUsage = critical,digitalSignature\nextendedKeyUsage = serverAuth,clientAuth\n"
        };
        let settings = self.file(name, "cnf");
        let dir = self.dir.display();
        std::fs::write(
            &settings,
            format!(
                "[ca]\ndefault_ca = own\n[own]\ndatabase = {dir}/index.txt\nserial = {dir}/serial\nnew_certs_dir = {dir}\n\
                 default_md = default\npolicy = any\nunique_subject = no\nx509_extensions = extensions\n\
                 default_crl_days = 30\ncrl_extensions = list\ncrlnumber = {dir}/crlnumber\n[list]\n\
                 authorityKeyIdentifier = keyid\n[any]\nC = optional\nO = optional\nCN = supplied\n[extensions]\n{usage}{alt_name}\
                 subjectKeyIdentifier = hash\n{}",
                if issuer.is_some() { "authorityKeyIdentifier = keyid\n" } else { "" }
            ),
        )?;
        let mut sign = Command::new("openssl");
        sign.args(["ca", "-batch", "-notext", "-config"]).arg(&settings).arg("-in").arg(&request);
        sign.arg("-out").arg(&made.certificate);
        match issuer {
            Some(issuer) => sign.arg("-cert").arg(&issuer.certificate).arg("-keyfile").arg(&issuer.key),
            None => sign.arg("-selfsign").arg("-keyfile").arg(&made.key),
        };
        match validity {
            Some((start, end)) => sign.args(["-startdate", start, "-enddate", end]),
            None => sign.args(["-days", "30"]),
        };
        run(&mut sign)?;
        Ok(made)
    }

    /// Revokes a certificate of `issuer` and returns the list of those that it has revoked.
    pub fn revoke(&self, certified: &Certified, issuer: &Certified) -> Result<PathBuf> {
        run(self.ca(issuer)?.arg("-revoke").arg(&certified.certificate))?;
        self.revoked(issuer)
    }

    /// The list of those that `issuer` has revoked.
    pub fn revoked(&self, issuer: &Certified) -> Result<PathBuf> {
        let list = issuer.certificate.with_extension("crl");
        run(self.ca(issuer)?.arg("-gencrl").arg("-out").arg(&list))?;
        Ok(list)
    }

    fn ca(&self, issuer: &Certified) -> Result<Command> {
        let mut command = Command::new("openssl");
        command.args(["ca", "-batch", "-config"]).arg(issuer.certificate.with_extension("cnf"));
        command.arg("-cert").arg(&issuer.certificate).arg("-keyfile").arg(&issuer.key);
        Ok(command)
    }

    fn file(&self, name: &str, kind: &str) -> PathBuf {
        self.dir.join(format!("{name}.{kind}"))
    }
}

/// Puts a gateway's own certificate with its key, authorities and others into the directories of a configuration.
pub fn install(
    directory: &Path,
    own: &Certified,
    authorities: &[&Certified],
    others: &[&Certified],
) -> Result<()> {
    for part in ["x509", "x509ca", "private", "x509crl"] {
        std::fs::create_dir_all(directory.join(part))?;
    }
    put(&own.key, &directory.join("private"))?;
    put(&own.certificate, &directory.join("x509"))?;
    for authority in authorities {
        put(&authority.certificate, &directory.join("x509ca"))?;
    }
    for other in others {
        put(&other.certificate, &directory.join("x509"))?;
    }
    Ok(())
}

/// Copies a file into a directory.
pub fn put(file: &Path, directory: &Path) -> Result<()> {
    let name = file.file_name().context("a file's name")?;
    std::fs::copy(file, directory.join(name))?;
    Ok(())
}
