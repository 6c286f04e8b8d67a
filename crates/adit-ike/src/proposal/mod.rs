//! Proposals: how an operator writes them, how they are shown, and how one is chosen from what a peer offers.
//!
//! The wire form is [`adit_wire::ikev2::Proposal`]; which algorithms exist is known to `adit-crypto`. This module
//! owns the keywords of `swanctl.conf` and the rules of RFC 7296 3.3, and never touches keys.

mod choice;
mod keywords;

use std::fmt;
use std::ops::Range;

use adit_crypto::{is_aead, supports_encr, supports_integ, supports_ke, supports_prf};
use adit_wire::ikev2::{EncrId, EsnId, IntegId, KeId, PrfId, Proposal, ProtocolId, Transform, TransformType};

pub use choice::{Choice, additional_kes, choose, esp_transforms, ike_transforms};
pub(crate) use choice::{
    answers, classical, methods, mismatches, post_quantum, simplest, without_esn, without_ke,
};
use keywords::{ADDITIONAL, KEYWORDS, Keyword};

/// Reads a comma-separated list of IKE proposals (`aes256gcm16-prfsha384-x25519, default`), numbered from 1.
///
/// # Errors
///
/// [`ProposalError`] with the place in `text`.
pub fn parse_ike(text: &str) -> Result<Vec<Proposal>, ProposalError> {
    parse(text, ProtocolId::IKE)
}

/// Reads a comma-separated list of ESP proposals (`aes256gcm16-x25519-esn`), numbered from 1.
///
/// # Errors
///
/// [`ProposalError`] with the place in `text`.
pub fn parse_esp(text: &str) -> Result<Vec<Proposal>, ProposalError> {
    parse(text, ProtocolId::ESP)
}

/// What is wrong with a proposal, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ProposalError {
    /// One sentence.
    pub message: String,
    /// The octets of the text it is about.
    pub place: Range<usize>,
    /// The keyword that was probably meant.
    pub nearest: Option<&'static str>,
}

/// Shows a proposal in the operator's notation.
#[derive(Clone, Copy)]
pub struct Notation<'a>(pub &'a Proposal);

impl fmt::Display for Notation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A peer chooses how long its proposals are; a line for a person has an end.
        const SHOWN: usize = 40;
        let mut first = true;
        for transform in self.0.transforms.iter().take(SHOWN) {
            if !first {
                f.write_str("-")?;
            }
            first = false;
            write!(f, "{}", TransformNotation(transform))?;
        }
        if self.0.transforms.len() > SHOWN {
            write!(f, "-...({} more)", self.0.transforms.len() - SHOWN)?;
        }
        if first { f.write_str("(no transforms)") } else { Ok(()) }
    }
}

/// Shows a list of proposals, separated by commas.
#[derive(Clone, Copy)]
pub struct NotationList<'a>(pub &'a [Proposal]);

impl fmt::Display for NotationList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        for (i, proposal) in self.0.iter().take(SHOWN).enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{}", Notation(proposal))?;
        }
        if self.0.len() > SHOWN {
            write!(f, ", ... ({} more)", self.0.len() - SHOWN)?;
        }
        Ok(())
    }
}

struct TransformNotation<'a>(&'a Transform);

impl fmt::Display for TransformNotation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = self.0;
        let (prefix, transform_type) = match ADDITIONAL.iter().find(|(_, slot)| *slot == t.transform_type) {
            Some((prefix, _)) => (*prefix, TransformType::KE),
            None => ("", t.transform_type),
        };
        f.write_str(prefix)?;
        let known = KEYWORDS
            .iter()
            .find(|k| k.transform_type == transform_type && k.id == t.id && k.key_length == t.key_length);
        if let Some(keyword) = known {
            return f.write_str(keyword.name);
        }
        match transform_type {
            TransformType::ENCR => write!(f, "{}", EncrId(t.id))?,
            TransformType::PRF => write!(f, "{}", PrfId(t.id))?,
            TransformType::INTEG => write!(f, "{}", IntegId(t.id))?,
            TransformType::KE => write!(f, "{}", KeId(t.id))?,
            TransformType::ESN => write!(f, "{}", EsnId(t.id))?,
            other => write!(f, "{other}={}", t.id)?,
        }
        match t.key_length {
            Some(bits) => write!(f, "/{bits}"),
            None => Ok(()),
        }
    }
}

/// Shows transforms of one type in the operator's notation.
pub(crate) fn transform_names(transforms: &[Transform]) -> String {
    const SHOWN: usize = 8;
    let mut names: Vec<String> =
        transforms.iter().take(SHOWN).map(|t| TransformNotation(t).to_string()).collect();
    if transforms.len() > SHOWN {
        names.push(format!("{} more", transforms.len() - SHOWN));
    }
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Shows one key exchange method in the operator's notation (`x25519`).
#[must_use]
pub fn ke_name(method: KeId) -> String {
    TransformNotation(&Transform::new(TransformType::KE, method.0, None)).to_string()
}

/// Every keyword this build understands for `protocol`, for completion and for messages.
pub fn keywords(protocol: ProtocolId) -> impl Iterator<Item = &'static str> {
    KEYWORDS.iter().filter(move |k| fits_protocol(k, protocol) && supported(k)).map(|k| k.name)
}

fn fits_protocol(keyword: &Keyword, protocol: ProtocolId) -> bool {
    match keyword.transform_type {
        TransformType::PRF => protocol == ProtocolId::IKE,
        TransformType::ESN => protocol == ProtocolId::ESP,
        TransformType::KE => protocol == ProtocolId::ESP || keyword.id != KeId::NONE.0,
        TransformType::ENCR => protocol == ProtocolId::ESP || keyword.id != EncrId::NULL.0,
        _ => true,
    }
}

fn supported(keyword: &Keyword) -> bool {
    match keyword.transform_type {
        TransformType::ENCR => supports_encr(EncrId(keyword.id), keyword.key_length),
        TransformType::PRF => supports_prf(PrfId(keyword.id)),
        TransformType::INTEG => supports_integ(IntegId(keyword.id)),
        TransformType::KE => keyword.id == KeId::NONE.0 || supports_ke(KeId(keyword.id)),
        _ => true,
    }
}

/// What `default` stands for: AEAD first, then CBC with HMAC; never both in one proposal (RFC 5282 8). For IKE,
/// post-quantum before everything, apart from the rest: who does not know additional key exchanges passes it over.
fn defaults(protocol: ProtocolId) -> Vec<Vec<Transform>> {
    let texts: &[&str] = if protocol == ProtocolId::IKE {
        &[
            "aes256gcm16-aes128gcm16-aes192gcm16-chacha20poly1305-prfsha384-prfsha256-prfsha512-\
             x25519-ecp256-ecp384-ecp521-ke1_mlkem768-ke1_mlkem1024",
            "aes256gcm16-aes128gcm16-aes192gcm16-chacha20poly1305-prfsha384-prfsha256-prfsha512-\
             x25519-ecp256-ecp384-ecp521-modp3072-modp4096-modp2048",
            "aes256-aes128-aes192-sha256-sha384-sha512-prfsha256-prfsha384-prfsha512-\
             x25519-ecp256-ecp384-ecp521-modp3072-modp4096-modp2048",
        ]
    } else {
        // Key exchange methods with `none`: forward secrecy per child where the peer does it, none where it does not.
        &[
            "aes256gcm16-aes128gcm16-aes192gcm16-chacha20poly1305-\
             x25519-ecp256-ecp384-ecp521-modp3072-modp4096-modp2048-none-esn-noesn",
            "aes256-aes128-aes192-sha256-sha384-sha512-\
             x25519-ecp256-ecp384-ecp521-modp3072-modp4096-modp2048-none-esn-noesn",
        ]
    };
    texts
        .iter()
        .map(|text| text.split('-').filter_map(|token| keyword(token, 0..0, protocol).ok()).collect())
        .collect()
}

fn parse(text: &str, protocol: ProtocolId) -> Result<Vec<Proposal>, ProposalError> {
    let mut lists: Vec<Vec<Transform>> = Vec::new();
    let mut start = 0;
    for part in text.split(',') {
        let end = start + part.len();
        let begin = start + (part.len() - part.trim_start().len());
        let part = part.trim();
        if part == "default" {
            lists.extend(defaults(protocol));
        } else {
            lists.push(parse_one(part, begin, protocol)?);
        }
        start = end + 1;
    }
    // The number of a proposal is one octet (RFC 7296 3.3.1).
    if lists.len() > usize::from(u8::MAX) {
        return Err(ProposalError {
            message: format!("{} proposals are too many, at most 255 fit a message", lists.len()),
            place: 0..text.len(),
            nearest: None,
        });
    }
    Ok(lists
        .into_iter()
        .zip(1..=u8::MAX)
        .map(|(transforms, number)| Proposal { number, protocol, spi: Vec::new(), transforms })
        .collect())
}

fn parse_one(part: &str, begin: usize, protocol: ProtocolId) -> Result<Vec<Transform>, ProposalError> {
    let whole = |message: String| ProposalError { message, place: begin..begin + part.len(), nearest: None };
    let mut transforms: Vec<Transform> = Vec::new();
    let mut start = begin;
    for token in part.split('-') {
        let place = start..start + token.len();
        start = place.end + 1;
        let transform = keyword(token, place.clone(), protocol)?;
        if transforms.contains(&transform) {
            return Err(ProposalError { message: format!("`{token}` appears twice"), place, nearest: None });
        }
        transforms.push(transform);
    }
    let has = |transforms: &[Transform], t: TransformType| transforms.iter().any(|x| x.transform_type == t);
    let aead = |t: &Transform| t.transform_type == TransformType::ENCR && is_aead(EncrId(t.id));
    if !has(&transforms, TransformType::ENCR) {
        return Err(whole(format!("proposal `{part}` names no encryption algorithm")));
    }
    let all_aead = transforms.iter().filter(|t| t.transform_type == TransformType::ENCR).all(aead);
    if !all_aead && transforms.iter().any(aead) {
        // RFC 5282 8: an AEAD algorithm comes without integrity, the others with.
        return Err(whole(format!(
            "proposal `{part}` mixes AEAD with other encryption; write two proposals separated by a comma"
        )));
    }
    // In strongSwan's notation the integrity keyword of an AEAD proposal for IKE names the PRF only.
    let integ: Vec<Transform> =
        transforms.iter().filter(|t| t.transform_type == TransformType::INTEG).cloned().collect();
    if all_aead {
        if protocol == ProtocolId::ESP && !integ.is_empty() {
            return Err(whole(format!("proposal `{part}`: AEAD encryption takes no integrity algorithm")));
        }
        transforms.retain(|t| t.transform_type != TransformType::INTEG);
    } else if integ.is_empty() {
        return Err(whole(format!("proposal `{part}` names no integrity algorithm")));
    }
    if protocol == ProtocolId::IKE {
        if !has(&transforms, TransformType::PRF) {
            let prfs: Vec<u16> = if integ.is_empty() {
                vec![PrfId::HMAC_SHA2_256.0, PrfId::HMAC_SHA2_384.0, PrfId::HMAC_SHA2_512.0]
            } else {
                integ.iter().filter_map(|t| prf_of(IntegId(t.id))).map(|p| p.0).collect()
            };
            transforms.extend(prfs.into_iter().map(|id| Transform::new(TransformType::PRF, id, None)));
        }
        if !has(&transforms, TransformType::PRF) {
            return Err(whole(format!("proposal `{part}` names no PRF (for example prfsha256)")));
        }
        if !has(&transforms, TransformType::KE) {
            return Err(whole(format!(
                "proposal `{part}` names no key exchange method (for example x25519)"
            )));
        }
    } else if !has(&transforms, TransformType::ESN) {
        transforms.push(Transform::new(TransformType::ESN, EsnId::NO_ESN.0, None));
    }
    let exchanges = |t: &Transform| t.transform_type == TransformType::KE && t.id != KeId::NONE.0;
    if transforms.iter().any(|t| t.transform_type.is_additional_ke()) && !transforms.iter().any(exchanges) {
        return Err(whole(format!(
            "proposal `{part}` has an additional key exchange, but none that it is added to (for example x25519)"
        )));
    }
    // One order for every proposal: what is shown and sent does not depend on how it was typed.
    transforms.sort_by_key(|t| match t.transform_type {
        TransformType::ENCR => 0,
        TransformType::INTEG => 1,
        TransformType::PRF => 2,
        TransformType::KE => 3,
        TransformType::ESN => u8::MAX,
        other => other.0,
    });
    Ok(transforms)
}

/// The transform that one word of a proposal stands for.
fn keyword(token: &str, place: Range<usize>, protocol: ProtocolId) -> Result<Transform, ProposalError> {
    let lower = token.to_ascii_lowercase();
    let additional = ADDITIONAL.iter().find_map(|(prefix, slot)| Some((lower.strip_prefix(prefix)?, *slot)));
    let (wanted, slot) = additional.map_or((lower.as_str(), None), |(rest, slot)| (rest, Some(slot)));
    let fits = |k: &&Keyword| k.name == wanted && (slot.is_none() || k.transform_type == TransformType::KE);
    let Some(keyword) = KEYWORDS.iter().find(fits) else {
        let nearest = keywords(protocol)
            .map(|name| (distance(wanted, name), name))
            .min()
            .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
            .map(|(_, name)| name);
        let message = if token.is_empty() {
            "an algorithm is missing here".to_owned()
        } else {
            format!("unknown algorithm `{token}`")
        };
        return Err(ProposalError { message, place, nearest });
    };
    let error = if slot.is_none() && !fits_protocol(keyword, protocol) {
        format!("`{token}` has no place in a proposal for {protocol}")
    } else if !supported(keyword) {
        format!("algorithm `{token}` is known but not supported by this build")
    } else {
        return Ok(Transform::new(slot.unwrap_or(keyword.transform_type), keyword.id, keyword.key_length));
    };
    Err(ProposalError { message: error, place, nearest: None })
}

fn prf_of(integ: IntegId) -> Option<PrfId> {
    match integ {
        IntegId::HMAC_MD5_96 => Some(PrfId::HMAC_MD5),
        IntegId::HMAC_SHA1_96 => Some(PrfId::HMAC_SHA1),
        IntegId::AES_XCBC_96 => Some(PrfId::AES128_XCBC),
        IntegId::HMAC_SHA2_256_128 => Some(PrfId::HMAC_SHA2_256),
        IntegId::HMAC_SHA2_384_192 => Some(PrfId::HMAC_SHA2_384),
        IntegId::HMAC_SHA2_512_256 => Some(PrfId::HMAC_SHA2_512),
        _ => None,
    }
}

/// Levenshtein distance of two short texts.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (slot, y) in row.iter_mut().skip(1).zip(&b) {
            let cost = diagonal + usize::from(x != *y);
            diagonal = *slot;
            left = cost.min(diagonal + 1).min(left + 1);
            *slot = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, protocol: ProtocolId) -> String {
        let proposals = parse(text, protocol).unwrap_or_else(|e| panic!("{text}: {e}"));
        NotationList(&proposals).to_string()
    }

    #[test]
    fn operators_notation_is_read_and_shown() {
        let ike = ProtocolId::IKE;
        let esp = ProtocolId::ESP;
        for (text, protocol, expected) in [
            ("aes256gcm16-prfsha384-x25519", ike, "aes256gcm16-prfsha384-x25519"),
            ("AES128GCM16-ecp256-prfsha256", ike, "aes128gcm16-prfsha256-ecp256"),
            ("aes256gcm128-prfsha256-curve25519", ike, "aes256gcm16-prfsha256-x25519"),
            // PRF from the integrity algorithm, as in strongSwan.
            ("aes256-sha256-modp2048", ike, "aes256-sha256-prfsha256-modp2048"),
            ("aes-sha2_512-ecp384", ike, "aes128-sha512-prfsha512-ecp384"),
            ("chacha20poly1305-ecp384", ike, "chacha20poly1305-prfsha256-prfsha384-prfsha512-ecp384"),
            ("aes256gcm16", esp, "aes256gcm16-noesn"),
            ("aes256gcm16-x25519-esn", esp, "aes256gcm16-x25519-esn"),
            ("aes256-sha256-esn-noesn", esp, "aes256-sha256-esn-noesn"),
            ("aes256gcm16, aes256-sha384", esp, "aes256gcm16-noesn, aes256-sha384-noesn"),
            // strongSwan's notation of RFC 9370.
            ("aes256-sha384-ke1_mlkem768-x25519", ike, "aes256-sha384-prfsha384-x25519-ke1_mlkem768"),
            (
                "aes256gcm16-prfsha384-ecp384-KE7_none-ke2_mlkem1024-ke2_x25519",
                ike,
                "aes256gcm16-prfsha384-ecp384-ke2_mlkem1024-ke2_x25519-ke7_none",
            ),
            ("aes256gcm16-esn-x25519-ke1_mlkem512", esp, "aes256gcm16-x25519-ke1_mlkem512-esn"),
        ] {
            assert_eq!(shown(text, protocol), expected, "{text}");
        }
    }

    #[test]
    fn proposals_are_numbered_from_one() {
        let proposals = parse_esp("default, aes128gcm16").unwrap();
        assert_eq!(proposals.iter().map(|p| p.number).collect::<Vec<_>>(), [1, 2, 3]);
        for p in &proposals {
            let aead =
                p.transforms.iter().any(|t| t.transform_type == TransformType::ENCR && is_aead(EncrId(t.id)));
            let integ = p.transforms.iter().any(|t| t.transform_type == TransformType::INTEG);
            assert_ne!(aead, integ, "AEAD without integrity, all others with: {}", Notation(p));
        }
    }

    #[test]
    fn mistakes_name_their_place_and_the_nearest_keyword() {
        let e = parse_ike("aes256gcm16-prfsha384-x25519, aes256-sha265-modp2048").unwrap_err();
        assert_eq!((e.place, e.nearest), (37..43, Some("sha256")), "{}", e.message);
        let e = parse_ike("aes256gcm16-aes256-sha256-x25519").unwrap_err();
        assert!(e.message.contains("mixes AEAD"), "{}", e.message);
        let e = parse_ike("aes256gcm16-prfsha256").unwrap_err();
        assert!(e.message.contains("no key exchange method"), "{}", e.message);
        let e = parse_ike("x25519-prfsha256").unwrap_err();
        assert!(e.message.contains("no encryption"), "{}", e.message);
        let e = parse_esp("aes256").unwrap_err();
        assert!(e.message.contains("no integrity"), "{}", e.message);
        let e = parse_esp("aes256gcm16-prfsha256").unwrap_err();
        assert_eq!(e.place, 12..21, "{}", e.message);
        let e = parse_ike("null-sha256-x25519").unwrap_err();
        assert!(e.message.contains("no place"), "{}", e.message);
        let e = parse_esp("aes256gcm16-aes256gcm16").unwrap_err();
        assert!(e.message.contains("twice"), "{}", e.message);
        let e = parse_esp("").unwrap_err();
        assert!(e.message.contains("missing"), "{}", e.message);
        let e = parse_esp("twofish256-sha256").unwrap_err();
        assert!(e.message.contains("not supported"), "{}", e.message);
        let e = parse_ike("aes256gcm16-prfsha256-x25519-ke1_mlkem786").unwrap_err();
        assert_eq!((e.place, e.nearest), (29..41, Some("mlkem768")), "{}", e.message);
        for unknown in ["ke0_mlkem768", "ke8_mlkem768", "ke1_aes256", "ke1_", "ke1_ke2_mlkem768"] {
            let e = parse_ike(&format!("aes256gcm16-prfsha256-x25519-{unknown}")).unwrap_err();
            assert!(e.message.contains("unknown"), "{}", e.message);
        }
        for (text, protocol) in [
            ("aes256gcm16-ke1_mlkem768", ProtocolId::ESP),
            ("aes256gcm16-none-ke1_mlkem768", ProtocolId::ESP),
        ] {
            let e = parse(text, protocol).unwrap_err();
            assert!(e.message.contains("none that it is added to"), "{}", e.message);
        }
        let e = parse_ike("aes256gcm16-prfsha256-x25519-ke1_mlkem768-ke1_mlkem768").unwrap_err();
        assert!(e.message.contains("twice"), "{}", e.message);
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("same", "same"), 0);
    }
}
