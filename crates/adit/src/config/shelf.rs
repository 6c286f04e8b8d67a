//! Certificates and private keys beside the configuration: where they lie, and what is in a file.
//!
//! It owns the names of the directories, which are those of `swanctl`, and PEM. What the octets mean is not known here, nor
//! whom they are for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::{PemObject, SectionKind};
use zeroize::{Zeroize, Zeroizing};

use super::syntax::Files;
use super::values::Material;

/// End entities, and authorities between those in `x509ca` and them.
pub(super) const X509: &str = "x509";
/// Authorities that are trusted.
pub(super) const X509CA: &str = "x509ca";
/// Lists of revoked certificates.
pub(super) const X509CRL: &str = "x509crl";
/// Private keys, each directory with the section of `secrets` that is about its files.
pub(super) const KEYS: [(&str, &str); 4] =
    [("private", "private*"), ("rsa", "rsa*"), ("ecdsa", "ecdsa*"), ("pkcs8", "pkcs8*")];

/// Octets of a file. Certificates have some thousand; lists of those that are revoked can be long.
const LONGEST: usize = 16 << 20;

/// What an object in PEM or DER is. DER does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    Certificate,
    Crl,
    PrivateKey,
    EncryptedPrivateKey,
    Unknown,
}

/// Something in DER. It may be a private key.
pub(super) type Object = (Label, Zeroizing<Vec<u8>>);

/// The directory of a configuration.
pub(super) struct Shelf<'f> {
    /// `None` for what has no files: a connection that a client pushes.
    directory: Option<(&'f dyn Files, PathBuf)>,
    /// What was read.
    pub(super) read: BTreeSet<PathBuf>,
    /// Those of them that hold private keys.
    pub(super) secret: BTreeSet<PathBuf>,
}

impl<'f> Shelf<'f> {
    /// Beside `configuration`.
    pub(super) fn beside(configuration: &Path, files: &'f dyn Files) -> Self {
        let directory = configuration.parent().unwrap_or_else(|| Path::new(""));
        Self {
            directory: Some((files, directory.to_owned())),
            read: BTreeSet::new(),
            secret: BTreeSet::new(),
        }
    }

    pub(super) fn empty() -> Self {
        Self { directory: None, read: BTreeSet::new(), secret: BTreeSet::new() }
    }

    /// All that a value names; a file's name without a path means one in `place`.
    pub(super) fn objects(&mut self, material: &Material, place: &str) -> Result<Vec<Object>, String> {
        match material {
            Material::Octets(octets) => objects(octets),
            Material::File(name) => {
                let Some(path) = self.path(name, place) else {
                    return Err("a client sends certificates themselves, not the names of files".to_owned());
                };
                self.open(&path).map_err(|error| format!("{}: {error}", path.display()))
            }
        }
    }

    /// Where a file is that a value names.
    pub(super) fn path(&self, name: &str, place: &str) -> Option<PathBuf> {
        let (_, directory) = self.directory.as_ref()?;
        Some(directory.join(place).join(name))
    }

    /// The files of a directory, in order; none if there is no such directory.
    pub(super) fn files(&self, place: &str) -> Vec<PathBuf> {
        let Some((files, directory)) = &self.directory else { return Vec::new() };
        // A wildcard in the path itself would be another pattern.
        let Some(escaped) = directory.to_str().map(glob::Pattern::escape) else { return Vec::new() };
        files.expand(&Path::new(&escaped).join(place).join("*")).unwrap_or_default()
    }

    /// All that is in a file.
    pub(super) fn open(&mut self, path: &Path) -> Result<Vec<Object>, String> {
        let Some((files, _)) = &self.directory else { return Err("there are no files".to_owned()) };
        let octets = files.read(path, LONGEST)?;
        self.read.insert(path.to_owned());
        objects(&octets)
    }
}

/// The objects of PEM text, or the one that is DER.
pub(super) fn objects(octets: &[u8]) -> Result<Vec<Object>, String> {
    // A SEQUENCE: of more than 127 octets, or of as many as there are.
    if matches!(octets, [0x30, 0x81..=0x84, ..])
        || matches!(octets, [0x30, length, rest @ ..] if usize::from(*length) == rest.len())
    {
        return Ok(vec![(Label::Unknown, Zeroizing::new(octets.to_vec()))]);
    }
    let mut objects = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(octets) {
        let (kind, mut der) = section.map_err(|_| "broken PEM".to_owned())?;
        let label = match kind {
            SectionKind::Certificate => Label::Certificate,
            SectionKind::Crl => Label::Crl,
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                Label::PrivateKey
            }
            _ => {
                der.zeroize();
                continue;
            }
        };
        objects.push((label, Zeroizing::new(der)));
    }
    objects.extend(encrypted(octets)?);
    if objects.is_empty() {
        Err("neither DER nor PEM of a certificate or key".to_owned())
    } else {
        Ok(objects)
    }
}

/// The first object that a client sends, in DER or PEM.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn material(octets: &[u8]) -> Result<Zeroizing<Vec<u8>>, String> {
    match objects(octets)?.into_iter().next() {
        Some((Label::EncryptedPrivateKey, _)) => Err("it is encrypted".to_owned()),
        Some((_, der)) => Ok(der),
        None => Err("there is nothing in it".to_owned()),
    }
}

/// `ENCRYPTED PRIVATE KEY`s (RFC 7468 11), which the library does not know.
fn encrypted(octets: &[u8]) -> Result<Vec<Object>, String> {
    const BEGIN: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";
    const END: &str = "-----END ENCRYPTED PRIVATE KEY-----";
    let Ok(text) = std::str::from_utf8(octets) else { return Ok(Vec::new()) };
    let mut objects = Vec::new();
    for rest in text.split(BEGIN).skip(1) {
        let (body, _) = rest.split_once(END).ok_or("broken PEM")?;
        let plain = format!("-----BEGIN PRIVATE KEY-----{body}-----END PRIVATE KEY-----\n");
        let (_, der) =
            <(SectionKind, Vec<u8>)>::from_pem_slice(plain.as_bytes()).map_err(|_| "broken PEM")?;
        objects.push((Label::EncryptedPrivateKey, Zeroizing::new(der)));
    }
    if text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(
            "encrypted in a form of its own (`Proc-Type`): convert it by `openssl pkcs8 -topk8`".to_owned()
        );
    }
    Ok(objects)
}
