//! Every suite that both have, over both outer families, with and without UDP, with and without extended sequence
//! numbers, and every replay window in turn.

use adit_wire::ikev2::{EncrId, IntegId};

use super::*;

/// A suite, by its numbers and by the names that Linux has for it.
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    pub(crate) encr: EncrId,
    pub(crate) key_bits: Option<u16>,
    pub(crate) integ: Option<IntegId>,
    cipher: &'static str,
    /// Name of the HMAC and bits of the ICV (RFC 2404, RFC 4868).
    hmac: Option<(&'static str, u16)>,
}

const GCM: &str = "rfc4106(gcm(aes))";
const SHA1: (IntegId, &str, u16) = (IntegId::HMAC_SHA1_96, "hmac(sha1)", 96);
const SHA256: (IntegId, &str, u16) = (IntegId::HMAC_SHA2_256_128, "hmac(sha256)", 128);
const SHA384: (IntegId, &str, u16) = (IntegId::HMAC_SHA2_384_192, "hmac(sha384)", 192);
const SHA512: (IntegId, &str, u16) = (IntegId::HMAC_SHA2_512_256, "hmac(sha512)", 256);

pub(crate) const SUITES: [Suite; 20] = [
    aead("aes128gcm16", EncrId::AES_GCM_16, Some(128), GCM),
    aead("aes192gcm16", EncrId::AES_GCM_16, Some(192), GCM),
    aead("aes256gcm16", EncrId::AES_GCM_16, Some(256), GCM),
    aead("chacha20poly1305", EncrId::CHACHA20_POLY1305, None, "rfc7539esp(chacha20,poly1305)"),
    cbc("aes128-sha1", 128, SHA1),
    cbc("aes128-sha256", 128, SHA256),
    cbc("aes128-sha384", 128, SHA384),
    cbc("aes128-sha512", 128, SHA512),
    cbc("aes192-sha1", 192, SHA1),
    cbc("aes192-sha256", 192, SHA256),
    cbc("aes192-sha384", 192, SHA384),
    cbc("aes192-sha512", 192, SHA512),
    cbc("aes256-sha1", 256, SHA1),
    cbc("aes256-sha256", 256, SHA256),
    cbc("aes256-sha384", 256, SHA384),
    cbc("aes256-sha512", 256, SHA512),
    null("null-sha1", SHA1),
    null("null-sha256", SHA256),
    null("null-sha384", SHA384),
    null("null-sha512", SHA512),
];

const fn aead(name: &'static str, encr: EncrId, key_bits: Option<u16>, cipher: &'static str) -> Suite {
    Suite { name, encr, key_bits, integ: None, cipher, hmac: None }
}

const fn cbc(name: &'static str, bits: u16, (integ, hmac, icv): (IntegId, &'static str, u16)) -> Suite {
    let (encr, cipher) = (EncrId::AES_CBC, "cbc(aes)");
    Suite { name, encr, key_bits: Some(bits), integ: Some(integ), cipher, hmac: Some((hmac, icv)) }
}

const fn null(name: &'static str, (integ, hmac, icv): (IntegId, &'static str, u16)) -> Suite {
    let (encr, cipher) = (EncrId::NULL, "ecb(cipher_null)");
    Suite { name, encr, key_bits: None, integ: Some(integ), cipher, hmac: Some((hmac, icv)) }
}

impl Suite {
    pub(crate) fn encr_key_len(&self) -> usize {
        // AEAD keys end in a salt of 4 octets (RFC 4106 8.1, RFC 7634 2).
        match (self.encr, self.key_bits) {
            (EncrId::AES_GCM_16, Some(bits)) => usize::from(bits) / 8 + 4,
            (EncrId::CHACHA20_POLY1305, _) => 36,
            (_, bits) => usize::from(bits.unwrap_or(0)) / 8,
        }
    }

    pub(crate) fn integ_key_len(&self) -> usize {
        // As long as the hash (RFC 2404 3, RFC 4868 2.1.1), of which RFC 4868 keeps one half and RFC 2404 96 of 160 bits.
        self.hmac.map_or(0, |(_, icv)| if icv == 96 { 20 } else { usize::from(icv) / 4 })
    }

    /// Cipher and integrity algorithm as scapy calls them.
    pub(crate) fn scapy(&self) -> (&'static str, Option<&'static str>) {
        let cipher = match self.encr {
            EncrId::AES_GCM_16 => "AES-GCM",
            EncrId::CHACHA20_POLY1305 => "CHACHA20-POLY1305",
            EncrId::AES_CBC => "AES-CBC",
            _ => "NULL",
        };
        let auth = self.hmac.map(|(_, icv)| match icv {
            96 => "HMAC-SHA1-96",
            128 => "SHA2-256-128",
            192 => "SHA2-384-192",
            _ => "SHA2-512-256",
        });
        (cipher, auth)
    }

    /// As `ip xfrm state` wants it.
    pub(crate) fn linux(&self, encr: &[u8], integ: &[u8]) -> String {
        let key =
            |octets: &[u8]| if octets.is_empty() { "\"\"".to_owned() } else { format!("0x{}", hex(octets)) };
        let (cipher, encr) = (self.cipher, key(encr));
        match self.hmac {
            None => format!("aead {cipher} {encr} 128"),
            Some((hmac, icv)) => format!("enc {cipher} {encr} auth-trunc {hmac} {} {icv}", key(integ)),
        }
    }
}

const WINDOWS: [u32; 6] = [32, 64, 128, 512, 1024, 4096];

pub(super) fn every_suite_both_ways(scene: &mut Scene<'_>) -> Result<()> {
    let mut window = WINDOWS.iter().cycle();
    let (mut pairs, mut packets) = (0, 0);
    for suite in &SUITES {
        for outer in FAMILIES {
            for encap in [false, true] {
                for esn in [false, true] {
                    let window = *window.next().context("endless")?;
                    let sas = Sas { suite, outer, encap, esn, window, ..Sas::usual() };
                    packets += all_sizes(scene, sas).with_context(|| sas.to_string())?;
                    pairs += 1;
                }
            }
            // 4 does not divide the number of windows, 6, and yet they would repeat every 12 SAs.
            window.next();
        }
    }
    tell(&format!("{pairs} pairs of SAs, {packets} packets, each as it was sent"));
    nothing_dropped(scene)
}

/// Packets of every residue of a cipher's block, of the largest sizes, and of random ones between.
fn all_sizes(scene: &mut Scene<'_>, sas: Sas<'_>) -> Result<usize> {
    let id = scene.install(sas)?;
    let mut count = 0;
    for family in FAMILIES {
        let header = if family == Family::V4 { 20 } else { 40 };
        let most = scene.mtu - header;
        let mut sizes: Vec<usize> = (1..=17).collect();
        sizes.extend((0..9).map(|_| 1 + scene.noise.below(most)));
        sizes.extend(most - 5..=most);
        scene.noise.shuffle(&mut sizes);
        let mut packets = [Vec::new(), Vec::new()];
        for (packets, from) in packets.iter_mut().zip(SIDES) {
            for &size in &sizes {
                let payload = scene.noise.octets(size);
                let number = scene.noise.below(1 << 30) as u32;
                let inner = Inner { family, from, number, traffic_class: 0, dont_fragment: true, payload };
                packets.push(inner.octets()?);
            }
        }
        let [a, b] = &packets;
        let expected = packets
            .each_ref()
            .map(|packets| packets.iter().map(|packet| forwarded(packet)).collect::<Vec<_>>());
        scene.exchange([a, b], [&expected[0], &expected[1]]).with_context(|| format!("inner {family:?}"))?;
        count += sizes.len();
    }
    let counters = scene.counters(id, count as u64)?;
    let each = (counters.packets_in, counters.packets_out);
    ensure!(each == (count as u64, count as u64), "{each:?} of {count} packets counted");
    Ok(2 * count)
}

/// The kernel has refused nothing, and nor has the data plane.
fn nothing_dropped(scene: &mut Scene<'_>) -> Result<()> {
    let said = scene.guest.run("cat /proc/net/xfrm_stat")?;
    let refused: Vec<&str> =
        said.lines().filter(|line| line.starts_with("XfrmIn") && !line.ends_with("\t0")).collect();
    ensure!(refused.is_empty() && said.contains("XfrmInStateProtoError"), "{said}");
    // What the kernel around it says to the device's own neighbours is of no policy.
    let is_drop = |(cause, count): &(DropCause, u64)| {
        *count > 0 && !matches!(cause, DropCause::NoPolicy | DropCause::NoSource)
    };
    let drops: Vec<_> = scene.plane.stats().drops.into_iter().filter(is_drop).collect();
    ensure!(drops.is_empty(), "{drops:?}");
    match scene.events.try_iter().find(|event| *event != NetEvent::PathsChanged) {
        Some(event) => bail!("{event:?}"),
        None => Ok(()),
    }
}
