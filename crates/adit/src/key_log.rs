//! The debug key log: every key in the clear, in the tables Wireshark reads.
//!
//! It appends to the files `ikev2_decryption_table` and `esp_sa` in a directory, which is what
//! `WIRESHARK_CONFIG_DIR` may name. It is off unless the configuration asks for it. Keys go nowhere else: not to the
//! log, not to an error text.

use std::fmt::Write as _;
use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use adit_crypto::{EspKeys, EspTransforms};
use adit_ike::{IkeKeyLog, InstallChild};
use adit_wire::ikev2::{EncrId, IntegId, Spi};
use rustix::fs::{Mode, OFlags};

/// The two open files.
#[derive(Debug)]
pub struct KeyLog {
    ike: File,
    esp: File,
}

impl KeyLog {
    /// Opens or creates both files in `directory`, readable by their owner alone.
    ///
    /// # Errors
    ///
    /// What the operating system says, and a directory or file in which somebody else has a hand.
    pub fn open(directory: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let flags = OFlags::DIRECTORY.bits().cast_signed();
        // What is checked is what is used, whatever the name leads to a moment later.
        let directory = OpenOptions::new().read(true).custom_flags(flags).open(directory)?;
        let metadata = directory.metadata()?;
        if !is_ours(&metadata) || metadata.mode() & 0o022 != 0 {
            return Err(refused("others may write to the directory, or own it"));
        }
        Ok(Self {
            ike: open_file(&directory, "ikev2_decryption_table")?,
            esp: open_file(&directory, "esp_sa")?,
        })
    }

    /// Appends the keys of an IKE SA.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn ike_sa(&mut self, keys: &IkeKeyLog) -> io::Result<()> {
        self.ike.write_all(ike_line(keys).as_bytes())
    }

    /// Appends the keys of both directions of a Child SA.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn child_sa(&mut self, child: &InstallChild) -> io::Result<()> {
        let inbound = esp_line(child.local, child.inbound_spi, child.transforms, &child.inbound_keys);
        let outbound = esp_line(child.local, child.outbound_spi, child.transforms, &child.outbound_keys);
        self.esp.write_all((inbound + &outbound).as_bytes())
    }
}

/// A file that is ours alone. It may have been there before the directory was, so nothing about it is believed.
fn open_file(directory: &File, name: &str) -> io::Result<File> {
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::CLOEXEC
        // A link could lead the keys elsewhere, and a pipe without a reader would wait for one.
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?);
    let metadata = file.metadata()?;
    if !metadata.is_file() || !is_ours(&metadata) || metadata.nlink() != 1 {
        return Err(refused(&format!("{name} is not a file of our own with one name")));
    }
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

fn is_ours(metadata: &Metadata) -> bool {
    metadata.uid() == rustix::process::geteuid().as_raw()
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

/// A row of Wireshark's table, or a comment with the same facts where the table has no name for the algorithms:
/// one row it cannot read would cost the whole table.
fn ike_line(keys: &IkeKeyLog) -> String {
    let (encryption, known) = match (keys.transforms.encr, keys.transforms.key_bits) {
        (EncrId::AES_GCM_16, Some(bits)) => (format!("AES-GCM-{bits} with 16 octet ICV [RFC5282]"), true),
        (EncrId::AES_CBC, Some(bits)) => (format!("AES-CBC-{bits} [RFC3602]"), true),
        (other, _) => (other.to_string(), false),
    };
    let integrity = match keys.transforms.integ {
        None | Some(IntegId::NONE) => Some("NONE [RFC4306]"),
        Some(IntegId::HMAC_SHA1_96) => Some("HMAC_SHA1_96 [RFC2404]"),
        Some(IntegId::HMAC_SHA2_256_128) => Some("HMAC_SHA2_256_128 [RFC4868]"),
        Some(IntegId::HMAC_SHA2_384_192) => Some("HMAC_SHA2_384_192 [RFC4868]"),
        Some(IntegId::HMAC_SHA2_512_256) => Some("HMAC_SHA2_512_256 [RFC4868]"),
        Some(_) => None,
    };
    format!(
        "{}{},{},{},{},\"{encryption}\",{},{},\"{}\"\n",
        if known && integrity.is_some() { "" } else { "# not known to Wireshark: " },
        keys.initiator_spi,
        keys.responder_spi,
        hex(&keys.sk_ei),
        hex(&keys.sk_er),
        hex(&keys.sk_ai),
        hex(&keys.sk_ar),
        integrity.unwrap_or("?"),
    )
}

/// As [`ike_line`]. The addresses are wildcards: behind a NAT the same SA is seen with other ones.
fn esp_line(outer: IpAddr, spi: Spi, transforms: EspTransforms, keys: &EspKeys) -> String {
    let encryption = match transforms.encr {
        EncrId::AES_GCM_16 => Some("AES-GCM with 16 octet ICV [RFC4106]"),
        EncrId::AES_CBC => Some("AES-CBC [RFC3602]"),
        EncrId::NULL => Some("NULL"),
        _ => None,
    };
    let integrity = match transforms.integ {
        None | Some(IntegId::NONE) => Some("NULL"),
        Some(IntegId::HMAC_SHA1_96) => Some("HMAC-SHA-1-96 [RFC2404]"),
        Some(IntegId::HMAC_SHA2_256_128) => Some("HMAC-SHA-256-128 [RFC4868]"),
        Some(IntegId::HMAC_SHA2_384_192) => Some("HMAC-SHA-384-192 [RFC4868]"),
        Some(IntegId::HMAC_SHA2_512_256) => Some("HMAC-SHA-512-256 [RFC4868]"),
        Some(_) => None,
    };
    let prefixed = |key: &[u8]| if key.is_empty() { String::new() } else { format!("0x{}", hex(key)) };
    format!(
        "{}\"{}\",\"*\",\"*\",\"0x{spi}\",\"{}\",\"{}\",\"{}\",\"{}\"\n",
        if encryption.is_some() && integrity.is_some() { "" } else { "# not known to Wireshark: " },
        if outer.is_ipv4() { "IPv4" } else { "IPv6" },
        encryption.map_or_else(|| transforms.encr.to_string(), ToOwned::to_owned),
        prefixed(keys.encr.expose()),
        integrity.unwrap_or("?"),
        prefixed(keys.integ.expose()),
    )
}

fn hex(octets: &[u8]) -> String {
    octets.iter().fold(String::with_capacity(octets.len() * 2), |mut text, octet| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{octet:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use adit_crypto::{IkeTransforms, Secret};
    use adit_wire::ikev2::{IkeSpi, KeId, PrfId};

    use super::*;

    fn ike_keys(encr: EncrId, key_bits: Option<u16>, integ: Option<IntegId>) -> IkeKeyLog {
        IkeKeyLog {
            initiator_spi: IkeSpi(0x0102_0304_0506_0708),
            responder_spi: IkeSpi(0xf1f2),
            transforms: IkeTransforms {
                encr,
                key_bits,
                integ,
                prf: PrfId::HMAC_SHA2_256,
                ke: KeId::CURVE_25519,
            },
            sk_ei: vec![0xe1, 0x01],
            sk_er: vec![0xe2, 0x02],
            sk_ai: if integ.is_some() { vec![0xa1] } else { Vec::new() },
            sk_ar: if integ.is_some() { vec![0xa2] } else { Vec::new() },
        }
    }

    /// The rows are what Wireshark 4.0 takes for these tables.
    #[test]
    fn ike_rows() {
        assert_eq!(
            ike_line(&ike_keys(EncrId::AES_GCM_16, Some(128), None)),
            "0102030405060708,000000000000f1f2,e101,e202,\"AES-GCM-128 with 16 octet ICV [RFC5282]\",,,\"NONE [RFC4306]\"\n"
        );
        assert_eq!(
            ike_line(&ike_keys(EncrId::AES_CBC, Some(256), Some(IntegId::HMAC_SHA2_256_128))),
            "0102030405060708,000000000000f1f2,e101,e202,\"AES-CBC-256 [RFC3602]\",a1,a2,\"HMAC_SHA2_256_128 [RFC4868]\"\n"
        );
        assert!(ike_line(&ike_keys(EncrId::CHACHA20_POLY1305, None, None)).starts_with("# "));
    }

    #[test]
    fn esp_rows() {
        let keys = EspKeys { encr: Secret::new(vec![1, 2, 3]), integ: Secret::new(vec![]) };
        let gcm = EspTransforms { encr: EncrId::AES_GCM_16, key_bits: Some(256), integ: None, esn: false };
        assert_eq!(
            esp_line("192.0.2.1".parse().unwrap(), Spi(0xc1), gcm, &keys),
            "\"IPv4\",\"*\",\"*\",\"0x000000c1\",\"AES-GCM with 16 octet ICV [RFC4106]\",\"0x010203\",\"NULL\",\"\"\n"
        );
        let keys = EspKeys { encr: Secret::new(vec![1]), integ: Secret::new(vec![2]) };
        let cbc = EspTransforms {
            encr: EncrId::AES_CBC,
            key_bits: Some(128),
            integ: Some(IntegId::HMAC_SHA2_512_256),
            esn: true,
        };
        assert_eq!(
            esp_line("2001:db8::1".parse().unwrap(), Spi(2), cbc, &keys),
            "\"IPv6\",\"*\",\"*\",\"0x00000002\",\"AES-CBC [RFC3602]\",\"0x01\",\"HMAC-SHA-512-256 [RFC4868]\",\"0x02\"\n"
        );
    }

    #[test]
    fn files_are_private_and_appended_to() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("keys");
        for _ in 0..2 {
            let keys = ike_keys(EncrId::AES_GCM_16, Some(128), None);
            KeyLog::open(&directory).unwrap().ike_sa(&keys).unwrap();
        }
        let path = directory.join("ikev2_decryption_table");
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(KeyLog::open(&directory).is_err(), "a link is not followed");
    }

    #[test]
    fn what_others_have_a_hand_in_gets_no_keys() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("keys");
        KeyLog::open(&directory).unwrap();
        let path = directory.join("esp_sa");

        std::fs::hard_link(&path, scratch.path().join("second name")).unwrap();
        assert!(KeyLog::open(&directory).is_err(), "a second name");
        std::fs::remove_file(&path).unwrap();

        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .unwrap();
        assert!(KeyLog::open(&directory).is_err(), "a pipe that nobody reads");
        let _reader = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(&path)
            .unwrap();
        assert!(KeyLog::open(&directory).is_err(), "a pipe that somebody reads");
        std::fs::remove_file(&path).unwrap();
        KeyLog::open(&directory).unwrap();

        for mode in [0o720, 0o702] {
            std::fs::set_permissions(&directory, Permissions::from_mode(mode)).unwrap();
            assert!(KeyLog::open(&directory).is_err(), "{mode:o}");
        }
        std::fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
        KeyLog::open(&directory).unwrap();

        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
            assert!(KeyLog::open(&directory).is_err(), "a file of another user");
            std::os::unix::fs::chown(&path, Some(0), None).unwrap();
            std::os::unix::fs::chown(&directory, Some(65_534), None).unwrap();
            assert!(KeyLog::open(&directory).is_err(), "a directory of another user");
        }
    }
}
