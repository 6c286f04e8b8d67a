//! Choosing one proposal of a peer, and checking a peer's choice of ours (RFC 7296 2.7, 3.3.6; RFC 9370 2.2.1).

use adit_crypto::{
    EspTransforms, IkeTransforms, is_aead, supports_encr, supports_integ, supports_ke, supports_prf,
};
use adit_wire::ikev2::{EncrId, EsnId, IntegId, KeId, PrfId, Proposal, ProtocolId, Transform, TransformType};

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Index of our own proposal that allows it.
    pub configured: usize,
    /// The answer: number and SPI of the peer's proposal, exactly one transform of each type it offered.
    pub proposal: Proposal,
}

/// Chooses from what a peer `offered` by the order of what is `configured`; `None` is NO_PROPOSAL_CHOSEN.
///
/// Never a part of a proposal: a transform type we do not know, an SPI of the wrong size, or a missing mandatory
/// type makes the whole proposal ineligible (RFC 7296 3.3.6).
#[must_use]
pub fn choose(configured: &[Proposal], offered: &[Proposal]) -> Option<Choice> {
    configured.iter().enumerate().find_map(|(index, own)| {
        offered
            .iter()
            .find_map(|theirs| combine(own, theirs))
            .map(|proposal| Choice { configured: index, proposal })
    })
}

fn ids(proposal: &Proposal, transform_type: TransformType) -> impl Iterator<Item = &Transform> {
    proposal.transforms.iter().filter(move |t| t.transform_type == transform_type && !t.unknown_attributes)
}

fn same(a: &Transform, b: &Transform) -> bool {
    a.transform_type == b.transform_type && a.id == b.id && a.key_length == b.key_length
}

/// The first transform of a type in our order that the peer offers too.
fn first_common<'a>(own: &'a Proposal, theirs: &Proposal, t: TransformType) -> Option<&'a Transform> {
    ids(own, t).find(|o| ids(theirs, t).any(|p| same(o, p)))
}

fn combine(own: &Proposal, theirs: &Proposal) -> Option<Proposal> {
    if own.protocol != theirs.protocol || !acceptable_spi(theirs) {
        return None;
    }
    let known = [
        TransformType::ENCR,
        TransformType::PRF,
        TransformType::INTEG,
        TransformType::KE,
        TransformType::ESN,
    ];
    let is_known = |t: TransformType| known.contains(&t) || t.is_additional_ke();
    if theirs.transforms.iter().any(|t| !is_known(t.transform_type)) {
        return None;
    }
    let mut transforms = encryption(own, theirs)?;
    if theirs.protocol == ProtocolId::IKE {
        transforms.push(first_common(own, theirs, TransformType::PRF)?.clone());
        transforms
            .push(first_common(own, theirs, TransformType::KE).filter(|t| t.id != KeId::NONE.0)?.clone());
        if ids(theirs, TransformType::ESN).next().is_some() {
            return None;
        }
        transforms.extend(additional(own, theirs, true)?);
    } else {
        if theirs.transforms.iter().any(|t| t.transform_type == TransformType::PRF) {
            return None;
        }
        let ke = child_key_exchange(own, theirs)?;
        let added_to = ke.as_ref().is_some_and(|ke| ke.id != KeId::NONE.0);
        transforms.extend(ke);
        transforms.extend(additional(own, theirs, added_to)?);
        transforms.extend(sequence_numbers(own, theirs)?);
    }
    Some(Proposal { number: theirs.number, protocol: theirs.protocol, spi: theirs.spi.clone(), transforms })
}

/// The transform types for which these two have nothing in common, in the order in which a person compares them. Empty
/// if [`combine`] finds something, but for a proposal that is not one: with an SPI of the wrong size, or half empty.
pub(crate) fn mismatches(own: &Proposal, theirs: &Proposal) -> Vec<TransformType> {
    let mut found = Vec::new();
    if encryption(own, theirs).is_none() {
        let common: Vec<&Transform> = ids(own, TransformType::ENCR)
            .filter(|o| ids(theirs, TransformType::ENCR).any(|p| same(o, p)))
            .collect();
        if common.is_empty() {
            found.push(TransformType::ENCR);
        }
        // What is authenticated by the cipher itself on one side needs no comparison.
        let aead = |p: &Proposal| ids(p, TransformType::ENCR).any(|t| is_aead(EncrId(t.id)));
        let integrity = first_common(own, theirs, TransformType::INTEG);
        if !common.is_empty() || (!aead(own) && !aead(theirs) && integrity.is_none()) {
            found.push(TransformType::INTEG);
        }
    }
    let ike = theirs.protocol == ProtocolId::IKE;
    if ike && first_common(own, theirs, TransformType::PRF).is_none() {
        found.push(TransformType::PRF);
    }
    let exchange = if ike {
        first_common(own, theirs, TransformType::KE).map(|ke| Some(ke.clone()))
    } else {
        child_key_exchange(own, theirs)
    };
    let added_to = exchange.as_ref().is_some_and(|ke| ke.as_ref().is_some_and(|ke| ke.id != KeId::NONE.0));
    if exchange.is_none() {
        found.push(TransformType::KE);
    } else if additional(own, theirs, added_to).is_none() {
        let slot = (TransformType::ADDKE1.0..=TransformType::ADDKE7.0).map(TransformType).find(|slot| {
            let offers = |p: &Proposal| ids(p, *slot).next().is_some();
            (offers(own) || offers(theirs)) && first_common(own, theirs, *slot).is_none()
        });
        found.push(slot.unwrap_or(TransformType::ADDKE1));
    }
    if !ike && sequence_numbers(own, theirs).is_none() {
        found.push(TransformType::ESN);
    }
    let own_types = |t: TransformType| own.transforms.iter().any(|o| o.transform_type == t);
    let known = TransformType::ENCR.0..=TransformType::ADDKE7.0;
    let unknown = theirs.transforms.iter().map(|t| t.transform_type);
    found.extend(unknown.filter(|t| !known.contains(&t.0) && !own_types(*t)));
    found.dedup();
    found
}

/// The simplest proposal with which `with` would be met: its own transforms where they have nothing in common, else what
/// they have. `None` if that is nothing that exists here.
pub(crate) fn simplest(with: &Proposal, other: &Proposal) -> Option<Proposal> {
    let first = |t: TransformType| first_common(with, other, t).or_else(|| ids(with, t).next());
    let encr = first(TransformType::ENCR)?;
    let mut transforms = vec![encr.clone()];
    let mut types = vec![TransformType::PRF, TransformType::KE];
    types.extend((TransformType::ADDKE1.0..=TransformType::ADDKE7.0).map(TransformType));
    types.push(TransformType::ESN);
    if !is_aead(EncrId(encr.id)) {
        types.insert(0, TransformType::INTEG);
    }
    transforms.extend(
        types
            .into_iter()
            .filter_map(first)
            .filter(|t| t.id != 0 || t.transform_type == TransformType::ESN)
            .cloned(),
    );
    // What is written without it is meant so.
    let usual = Transform::new(TransformType::ESN, EsnId::NO_ESN.0, None);
    transforms.retain(|t| !same(t, &usual));
    let simplest = Proposal { transforms, number: 1, protocol: with.protocol, spi: with.spi.clone() };
    let exists = ike_transforms(&simplest).is_some() || esp_transforms(&simplest).is_some();
    exists.then_some(simplest)
}

/// ENCR, and INTEG where ENCR needs it. An AEAD algorithm goes with no integrity transform or with NONE only
/// (RFC 7296 3.3, RFC 5282 8).
fn encryption(own: &Proposal, theirs: &Proposal) -> Option<Vec<Transform>> {
    let integrity_offered = theirs.transforms.iter().any(|t| t.transform_type == TransformType::INTEG);
    let none_offered = ids(theirs, TransformType::INTEG).find(|t| t.id == IntegId::NONE.0);
    let integ = ids(own, TransformType::INTEG)
        .filter(|t| t.id != IntegId::NONE.0)
        .find(|o| ids(theirs, TransformType::INTEG).any(|p| same(o, p)));
    ids(own, TransformType::ENCR).filter(|o| ids(theirs, TransformType::ENCR).any(|p| same(o, p))).find_map(
        |encr| {
            if is_aead(EncrId(encr.id)) {
                match none_offered {
                    Some(none) => Some(vec![encr.clone(), none.clone()]),
                    None if integrity_offered => None,
                    None => Some(vec![encr.clone()]),
                }
            } else {
                integ.map(|integ| vec![encr.clone(), integ.clone()])
            }
        },
    )
}

/// The key exchange of a child; `NONE`, or no transform at all, means none of its own.
fn child_key_exchange(own: &Proposal, theirs: &Proposal) -> Option<Option<Transform>> {
    let offered = theirs.transforms.iter().any(|t| t.transform_type == TransformType::KE);
    let wanted = own.transforms.iter().any(|t| t.transform_type == TransformType::KE);
    let none = Transform::new(TransformType::KE, KeId::NONE.0, None);
    match (wanted, offered) {
        (false, false) => Some(None),
        (true, false) => ids(own, TransformType::KE).any(|t| t.id == KeId::NONE.0).then_some(None),
        (false, true) => ids(theirs, TransformType::KE).any(|t| t.id == KeId::NONE.0).then_some(Some(none)),
        (true, true) => first_common(own, theirs, TransformType::KE).map(|t| Some(t.clone())),
    }
}

/// One additional key exchange, or NONE, for every slot the peer offers, no method twice (RFC 9370 2.2.1). A slot that
/// one side leaves out has only NONE there. Without a key exchange that they are added to, all are NONE.
fn additional(own: &Proposal, theirs: &Proposal, added_to: bool) -> Option<Vec<Transform>> {
    let mut slots = Vec::new();
    for number in TransformType::ADDKE1.0..=TransformType::ADDKE7.0 {
        let slot = TransformType(number);
        let none = Transform::new(slot, KeId::NONE.0, None);
        let offers = |p: &Proposal, wanted: &Transform| {
            let mut of_slot = p.transforms.iter().filter(|t| t.transform_type == slot).peekable();
            let left_out = of_slot.peek().is_none();
            (left_out && *wanted == none) || of_slot.any(|t| !t.unknown_attributes && same(t, wanted))
        };
        let mut common: Vec<&Transform> =
            ids(own, slot).filter(|t| (added_to || t.id == KeId::NONE.0) && offers(theirs, t)).collect();
        if common.is_empty() && offers(own, &none) && offers(theirs, &none) {
            common.push(&none);
        }
        let answered = theirs.transforms.iter().any(|t| t.transform_type == slot);
        slots.push((answered, common.into_iter().cloned().collect::<Vec<_>>()));
    }
    let mut chosen = Vec::new();
    distinct(&slots, &mut chosen).then_some(())?;
    Some(chosen.into_iter().zip(slots).filter(|(_, (answered, _))| *answered).map(|(t, _)| t).collect())
}

/// The first choice by slot and order in which no method but NONE comes twice.
fn distinct(slots: &[(bool, Vec<Transform>)], chosen: &mut Vec<Transform>) -> bool {
    let Some(((_, common), rest)) = slots.split_first() else { return true };
    common.iter().any(|t| {
        if t.id != KeId::NONE.0 && chosen.iter().any(|other| other.id == t.id) {
            return false;
        }
        chosen.push(t.clone());
        let found = distinct(rest, chosen);
        if !found {
            chosen.pop();
        }
        found
    })
}

/// Peers that predate extended sequence numbers leave the type out; that is 32-bit numbers.
fn sequence_numbers(own: &Proposal, theirs: &Proposal) -> Option<Option<Transform>> {
    if theirs.transforms.iter().any(|t| t.transform_type == TransformType::ESN) {
        return first_common(own, theirs, TransformType::ESN).map(|t| Some(t.clone()));
    }
    ids(own, TransformType::ESN).any(|t| t.id == EsnId::NO_ESN.0).then_some(None)
}

/// An IKE proposal of IKE_SA_INIT carries no SPI, an ESP one four octets that are not reserved (RFC 4303 2.1).
fn acceptable_spi(proposal: &Proposal) -> bool {
    match proposal.protocol {
        ProtocolId::IKE => proposal.spi.is_empty(),
        ProtocolId::ESP => {
            <[u8; 4]>::try_from(proposal.spi.as_slice()).is_ok_and(|spi| u32::from_be_bytes(spi) > 255)
        }
        _ => false,
    }
}

/// Is `answer` a choice from `offered` as RFC 7296 2.7 wants it: the number of one of them, and of that one exactly
/// one transform of each type (of none if the type was optional)?
pub(crate) fn answers(offered: &[Proposal], answer: &Proposal) -> bool {
    if !acceptable_spi(answer) {
        return false;
    }
    let Some(own) = offered.iter().find(|p| p.number == answer.number && p.protocol == answer.protocol)
    else {
        return false;
    };
    let each_offered = answer.transforms.iter().all(|t| {
        !t.unknown_attributes
            && (own.transforms.iter().any(|o| same(o, t))
                // Saying NONE where nothing was offered is the same as saying nothing.
                || (t.id == 0 && (matches!(t.transform_type, TransformType::INTEG | TransformType::KE)
                        || t.transform_type.is_additional_ke())
                    && !own.transforms.iter().any(|o| o.transform_type == t.transform_type))
                || (t.transform_type == TransformType::ESN && t.id == EsnId::NO_ESN.0
                    && !own.transforms.iter().any(|o| o.transform_type == TransformType::ESN)))
    });
    // A slot without NONE cannot be dropped by leaving it out.
    let each_answered = own.transforms.iter().filter(|o| o.transform_type.is_additional_ke()).all(|o| {
        let slot = o.transform_type;
        answer.transforms.iter().any(|t| t.transform_type == slot)
            || ids(own, slot).any(|t| t.id == KeId::NONE.0)
    });
    each_offered
        && each_answered
        && match answer.protocol {
            ProtocolId::IKE => ike_transforms(answer).is_some(),
            _ => {
                esp_transforms(answer).is_some_and(|(transforms, ke)| {
                    let extended = EsnId::ESN.0;
                    let only_extended = own
                        .transforms
                        .iter()
                        .filter(|t| t.transform_type == TransformType::ESN)
                        .all(|t| t.id == extended);
                    let kes: Vec<&Transform> = ids(own, TransformType::KE).collect();
                    // What we hold mandatory cannot be dropped by leaving it out.
                    (transforms.esn
                        || !only_extended
                        || !own
                            .transforms
                            .iter()
                            .any(|t| t.id == extended && t.transform_type == TransformType::ESN))
                        && (ke.is_some() || kes.is_empty() || kes.iter().any(|t| t.id == KeId::NONE.0))
                })
            }
        }
}

/// Exactly one transform of a type, none (`Ok(None)`), or more than one (`Err`).
fn single(proposal: &Proposal, t: TransformType) -> Result<Option<&Transform>, ()> {
    let mut of_type = proposal.transforms.iter().filter(|x| x.transform_type == t);
    match (of_type.next(), of_type.next()) {
        (first, None) => Ok(first),
        _ => Err(()),
    }
}

/// ENCR with key length and INTEG of a chosen proposal, if they fit together and exist here.
fn chosen_encryption(proposal: &Proposal) -> Option<(EncrId, Option<u16>, Option<IntegId>)> {
    let encr = single(proposal, TransformType::ENCR).ok()??;
    let integ =
        single(proposal, TransformType::INTEG).ok()?.map(|t| IntegId(t.id)).filter(|i| *i != IntegId::NONE);
    let id = EncrId(encr.id);
    let fits = supports_encr(id, encr.key_length)
        && match integ {
            Some(integ) => !is_aead(id) && supports_integ(integ),
            None => is_aead(id),
        };
    fits.then_some((id, encr.key_length, integ))
}

/// The algorithms of a chosen IKE proposal; `None` if it does not name exactly one of each.
#[must_use]
pub fn ike_transforms(proposal: &Proposal) -> Option<IkeTransforms> {
    let (encr, key_bits, integ) = chosen_encryption(proposal)?;
    let prf = PrfId(single(proposal, TransformType::PRF).ok()??.id);
    let ke = KeId(single(proposal, TransformType::KE).ok()??.id);
    additional_kes(proposal)?;
    (proposal.protocol == ProtocolId::IKE && encr != EncrId::NULL && supports_prf(prf) && supports_ke(ke))
        .then_some(IkeTransforms { encr, key_bits, integ, prf, ke })
}

/// The algorithms of a chosen ESP proposal and its own key exchange method, if it has one.
#[must_use]
pub fn esp_transforms(proposal: &Proposal) -> Option<(EspTransforms, Option<KeId>)> {
    let (encr, key_bits, integ) = chosen_encryption(proposal)?;
    let esn = single(proposal, TransformType::ESN).ok()?.map_or(EsnId::NO_ESN, |t| EsnId(t.id));
    let ke = single(proposal, TransformType::KE).ok()?.map(|t| KeId(t.id)).filter(|k| *k != KeId::NONE);
    let additional = additional_kes(proposal)?;
    (proposal.protocol == ProtocolId::ESP
        && (ke.is_some() || additional.is_empty())
        && (esn == EsnId::NO_ESN || esn == EsnId::ESN)
        && ke.is_none_or(supports_ke))
    .then_some((EspTransforms { encr, key_bits, integ, esn: esn == EsnId::ESN }, ke))
}

/// The additional key exchanges of a chosen proposal in the order in which they are done; `None` if it names two for
/// one slot, one that does not exist here, or one method twice (RFC 9370 2.2.1).
#[must_use]
pub fn additional_kes(proposal: &Proposal) -> Option<Vec<KeId>> {
    let mut methods = Vec::new();
    for slot in TransformType::ADDKE1.0..=TransformType::ADDKE7.0 {
        let method = single(proposal, TransformType(slot)).ok()?.map_or(KeId::NONE, |t| KeId(t.id));
        if method == KeId::NONE {
            continue;
        }
        if !supports_ke(method) || methods.contains(&method) {
            return None;
        }
        methods.push(method);
    }
    Some(methods)
}

/// The proposals without additional key exchanges: to a peer without IKE_INTERMEDIATE the others are of an unknown
/// kind (RFC 9370 2.2.1).
pub(crate) fn classical(proposals: &[Proposal]) -> Vec<Proposal> {
    let additional = |p: &&Proposal| p.transforms.iter().any(|t| t.transform_type.is_additional_ke());
    proposals.iter().filter(|p| !additional(p)).cloned().collect()
}

/// The proposals of which every choice has a post-quantum key exchange, numbered anew.
pub(crate) fn post_quantum(proposals: &[Proposal]) -> Vec<Proposal> {
    let always = |p: &Proposal, slot| {
        let mut of_slot = ids(p, slot).peekable();
        of_slot.peek().is_some() && of_slot.all(|t| KeId(t.id).is_post_quantum())
    };
    let slots = || [TransformType::KE.0].into_iter().chain(TransformType::ADDKE1.0..=TransformType::ADDKE7.0);
    let kept = proposals.iter().filter(|p| slots().any(|slot| always(p, TransformType(slot))));
    kept.cloned().zip(1..).map(|(p, number)| Proposal { number, ..p }).collect()
}

/// Key exchange methods of the proposals in their order, without NONE and repetitions.
pub(crate) fn methods(proposals: &[Proposal]) -> Vec<KeId> {
    let mut methods = Vec::new();
    for t in proposals.iter().flat_map(|p| ids(p, TransformType::KE)) {
        let method = KeId(t.id);
        if method != KeId::NONE && !methods.contains(&method) {
            methods.push(method);
        }
    }
    methods
}

/// The proposals for a child made by IKE_AUTH: it has no key exchange of its own (RFC 7296 1.2).
pub(crate) fn without_ke(proposals: &[Proposal]) -> Vec<Proposal> {
    without(proposals, |t| t.transform_type == TransformType::KE || t.transform_type.is_additional_ke())
}

/// The proposals for a child without anti-replay window: extended sequence numbers need one (RFC 4303 3.3.3).
pub(crate) fn without_esn(proposals: &[Proposal]) -> Vec<Proposal> {
    let mut kept = without(proposals, |t| t.transform_type == TransformType::ESN && t.id == EsnId::ESN.0);
    kept.retain(|p| p.transforms.iter().any(|t| t.transform_type == TransformType::ESN));
    kept
}

fn without(proposals: &[Proposal], drop: impl Fn(&Transform) -> bool) -> Vec<Proposal> {
    proposals
        .iter()
        .map(|p| Proposal {
            transforms: p.transforms.iter().filter(|t| !drop(t)).cloned().collect(),
            number: p.number,
            protocol: p.protocol,
            spi: p.spi.clone(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Notation, parse_esp, parse_ike};
    use super::*;

    fn transform(transform_type: TransformType, id: u16, key_length: Option<u16>) -> Transform {
        Transform::new(transform_type, id, key_length)
    }

    fn esp(text: &str) -> Vec<Proposal> {
        let mut proposals = parse_esp(text).unwrap();
        for p in &mut proposals {
            p.spi = vec![0xc0, 0, 0, 1];
        }
        proposals
    }

    fn chosen(configured: &[Proposal], offered: &[Proposal]) -> Option<String> {
        choose(configured, offered).map(|c| Notation(&c.proposal).to_string())
    }

    #[test]
    fn our_order_decides() {
        let ours = parse_ike("aes256gcm16-prfsha384-x25519-ecp384, aes256-sha256-modp2048").unwrap();
        let theirs = parse_ike(
            "aes128-aes256-sha256-modp2048, aes128gcm16-aes256gcm16-prfsha256-prfsha384-ecp384-x25519",
        )
        .unwrap();
        let choice = choose(&ours, &theirs).unwrap();
        assert_eq!(Notation(&choice.proposal).to_string(), "aes256gcm16-prfsha384-x25519");
        assert_eq!((choice.configured, choice.proposal.number), (0, 2), "the number is the peer's");
        assert!(answers(&theirs, &choice.proposal), "the peer would take it");
    }

    #[test]
    fn nothing_in_common_is_nothing_chosen() {
        let ours = parse_ike("aes256gcm16-prfsha384-x25519").unwrap();
        for theirs in [
            "aes128gcm16-prfsha384-x25519",
            "aes256gcm16-prfsha256-x25519",
            "aes256gcm16-prfsha384-ecp384",
            "aes256-sha384-x25519",
        ] {
            assert_eq!(chosen(&ours, &parse_ike(theirs).unwrap()), None, "{theirs}");
        }
    }

    /// Standards 3.3 tests 9 and 10: never a partial acceptance.
    #[test]
    fn crippled_proposals_are_not_chosen() {
        let ours = parse_ike("aes256gcm16-prfsha384-x25519, aes256-sha384-prfsha384-x25519").unwrap();
        let good = parse_ike("aes256gcm16-prfsha384-x25519").unwrap();
        assert!(chosen(&ours, &good).is_some());
        for t in [TransformType::ENCR, TransformType::PRF, TransformType::KE] {
            let mut bad = good.clone();
            bad[0].transforms.retain(|x| x.transform_type != t);
            assert_eq!(chosen(&ours, &bad), None, "without {t}");
        }
        let mut bad = good.clone();
        bad[0].transforms.push(transform(TransformType::INTEG, IntegId::HMAC_SHA2_384_192.0, None));
        assert_eq!(chosen(&ours, &bad), None, "AEAD with integrity");
        let mut fine = good.clone();
        fine[0].transforms.push(transform(TransformType::INTEG, IntegId::NONE.0, None));
        assert!(chosen(&ours, &fine).is_some(), "AEAD with integrity NONE");
        for unknown in [TransformType(13), TransformType(99)] {
            let mut bad = good.clone();
            bad[0].transforms.push(transform(unknown, 1, None));
            assert_eq!(chosen(&ours, &bad), None, "transform type {unknown}");
        }
        for spi in [vec![1; 8], vec![1; 4]] {
            let mut bad = good.clone();
            bad[0].spi = spi;
            assert_eq!(chosen(&ours, &bad), None, "SPI in IKE_SA_INIT");
        }
        for protocol in [ProtocolId::NONE, ProtocolId::AH, ProtocolId::ESP, ProtocolId(9)] {
            let mut bad = good.clone();
            bad[0].protocol = protocol;
            assert_eq!(chosen(&ours, &bad), None, "protocol {protocol}");
        }
        for bits in [None, Some(0), Some(128), Some(512)] {
            let mut bad = good.clone();
            for t in &mut bad[0].transforms {
                if t.transform_type == TransformType::ENCR {
                    *t = transform(TransformType::ENCR, t.id, bits);
                }
            }
            assert_eq!(chosen(&ours, &bad), None, "key length {bits:?}");
        }
        let mut bad = good;
        bad[0].transforms[0].unknown_attributes = true;
        assert_eq!(chosen(&ours, &bad), None, "an attribute we do not know");
        assert_eq!(chosen(&ours, &[]), None);
    }

    #[test]
    fn esp_proposals_need_a_usable_spi() {
        let ours = esp("aes256gcm16");
        for spi in [vec![], vec![0; 4], vec![0, 0, 0, 255], vec![1; 8]] {
            let mut bad = esp("aes256gcm16");
            bad[0].spi = spi;
            assert_eq!(chosen(&ours, &bad), None);
        }
    }

    #[test]
    fn key_exchange_of_a_child_may_be_optional() {
        for (ours, theirs, expected) in [
            ("aes256gcm16", "aes256gcm16", Some("aes256gcm16-noesn")),
            ("aes256gcm16-x25519", "aes256gcm16", None),
            ("aes256gcm16", "aes256gcm16-x25519", None),
            ("aes256gcm16-x25519-none", "aes256gcm16", Some("aes256gcm16-noesn")),
            ("aes256gcm16", "aes256gcm16-x25519-none", Some("aes256gcm16-none-noesn")),
            ("aes256gcm16-x25519", "aes256gcm16-ecp256-x25519", Some("aes256gcm16-x25519-noesn")),
            ("aes256gcm16-none-x25519", "aes256gcm16-x25519-none", Some("aes256gcm16-none-noesn")),
        ] {
            let answer = choose(&esp(ours), &esp(theirs));
            assert_eq!(
                answer.as_ref().map(|c| Notation(&c.proposal).to_string()).as_deref(),
                expected,
                "{ours} / {theirs}"
            );
            if let Some(choice) = answer {
                assert!(answers(&esp(theirs), &choice.proposal), "{ours} / {theirs}");
            }
        }
    }

    /// RFC 9370 2.2.1: one of each offered slot, NONE where that is all there is in common, no method twice.
    #[test]
    fn additional_key_exchanges_are_chosen_slot_by_slot() {
        for (ours, theirs, expected) in [
            ("ke1_mlkem768", "ke1_mlkem768", Some(("ke1_mlkem768", 1))),
            ("ke1_mlkem768-ke1_mlkem1024", "ke1_mlkem1024-ke1_mlkem768", Some(("ke1_mlkem768", 1))),
            ("ke1_mlkem768", "ke1_mlkem1024", None),
            // A slot that is left out is NONE.
            ("ke1_mlkem768", "", None),
            ("", "ke1_mlkem768", None),
            ("ke1_mlkem768-ke1_none", "", Some(("", 0))),
            ("", "ke1_mlkem768-ke1_none", Some(("ke1_none", 0))),
            ("ke1_mlkem768", "ke2_mlkem768", None),
            ("ke1_mlkem768-ke1_none", "ke2_mlkem768-ke2_none", Some(("ke2_none", 0))),
            // The example of RFC 9370 2.2.1: slots that do not follow one another.
            (
                "ke2_mlkem768-ke3_ecp384-ke5_x25519-ke5_none",
                "ke2_mlkem768-ke2_mlkem512-ke3_ecp384-ke5_mlkem1024-ke5_none",
                Some(("ke2_mlkem768-ke3_ecp384-ke5_none", 2)),
            ),
            // Never one method twice, but NONE.
            ("ke1_mlkem768-ke2_mlkem768", "ke1_mlkem768-ke2_mlkem768", None),
            ("ke1_none-ke2_none", "ke1_none-ke2_none", Some(("ke1_none-ke2_none", 0))),
            (
                "ke1_mlkem768-ke1_mlkem1024-ke2_mlkem768",
                "ke1_mlkem768-ke1_mlkem1024-ke2_mlkem768",
                Some(("ke1_mlkem1024-ke2_mlkem768", 2)),
            ),
            (
                "ke1_mlkem768-ke2_mlkem768-ke2_none",
                "ke1_mlkem768-ke2_mlkem768-ke2_none",
                Some(("ke1_mlkem768-ke2_none", 1)),
            ),
            // All seven.
            (
                "ke1_mlkem512-ke2_mlkem768-ke3_mlkem1024-ke4_x25519-ke5_ecp256-ke6_ecp384-ke7_ecp521",
                "ke1_mlkem512-ke2_mlkem768-ke3_mlkem1024-ke4_x25519-ke5_ecp256-ke6_ecp384-ke7_ecp521",
                Some((
                    "ke1_mlkem512-ke2_mlkem768-ke3_mlkem1024-ke4_x25519-ke5_ecp256-ke6_ecp384-ke7_ecp521",
                    7,
                )),
            ),
        ] {
            let read = |text: &str| {
                let text = if text.is_empty() { String::new() } else { format!("-{text}") };
                parse_ike(&format!("aes256gcm16-prfsha384-x25519{text}")).unwrap()
            };
            let (ours, theirs) = (read(ours), read(theirs));
            let choice = choose(&ours, &theirs);
            let shown = choice.as_ref().map(|c| Notation(&c.proposal).to_string());
            let expected_text = expected.map(|(text, _)| {
                let text = if text.is_empty() { String::new() } else { format!("-{text}") };
                format!("aes256gcm16-prfsha384-x25519{text}")
            });
            assert_eq!(shown, expected_text, "{} / {}", Notation(&ours[0]), Notation(&theirs[0]));
            if let (Some(choice), Some((_, count))) = (choice, expected) {
                assert!(answers(&theirs, &choice.proposal), "{}", Notation(&choice.proposal));
                assert_eq!(additional_kes(&choice.proposal).unwrap().len(), count);
                assert!(ike_transforms(&choice.proposal).is_some());
            }
        }
    }

    /// RFC 9370 2.2.1: an initiator does not go on with an answer that breaks the rules.
    #[test]
    fn answers_with_other_additional_key_exchanges_are_refused() {
        let offered =
            parse_ike("aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_ecp256-ke2_mlkem768-ke2_none").unwrap();
        let slot = |number: u8, method: KeId| transform(TransformType(number), method.0, None);
        let answer = |slots: &[Transform]| {
            let mut answer = parse_ike("aes256gcm16-prfsha384-x25519").unwrap().remove(0);
            answer.transforms.extend_from_slice(slots);
            answers(&offered, &answer)
        };
        let (none, m768, m1024) = (KeId::NONE, KeId::ML_KEM_768, KeId::ML_KEM_1024);
        assert!(answer(&[slot(6, m768), slot(7, none)]));
        assert!(answer(&[slot(6, m768)]), "saying nothing where NONE was offered");
        assert!(answer(&[slot(6, m768), slot(8, none)]), "NONE where nothing was offered");
        assert!(answer(&[slot(6, KeId::ECP_256), slot(7, m768)]));
        assert!(!answer(&[slot(6, m768), slot(7, m768)]), "one method twice");
        assert!(!answer(&[]), "a mandatory slot left out");
        assert!(!answer(&[slot(6, none)]), "NONE that was not offered");
        assert!(!answer(&[slot(6, m1024)]), "a method that was not offered");
        assert!(!answer(&[slot(6, m768), slot(6, KeId::ECP_256)]), "two for one slot");
        assert!(!answer(&[slot(6, m768), slot(8, m1024)]), "a slot that was not offered");
    }

    #[test]
    fn a_child_adds_only_to_a_key_exchange_of_its_own() {
        for (ours, theirs, expected) in [
            ("x25519-ke1_mlkem768", "x25519-ke1_mlkem768", Some("aes256gcm16-x25519-ke1_mlkem768-noesn")),
            ("none-x25519-ke1_mlkem768", "none-x25519-ke1_mlkem768", None),
            (
                "none-x25519-ke1_mlkem768-ke1_none",
                "none-x25519-ke1_mlkem768-ke1_none",
                Some("aes256gcm16-none-ke1_none-noesn"),
            ),
        ] {
            let (ours, theirs) = (esp(&format!("aes256gcm16-{ours}")), esp(&format!("aes256gcm16-{theirs}")));
            assert_eq!(chosen(&ours, &theirs).as_deref(), expected);
        }
        let mut bare = esp("aes256gcm16-x25519-ke1_mlkem768").remove(0);
        bare.transforms.retain(|t| t.transform_type != TransformType::KE);
        assert_eq!(esp_transforms(&bare), None);
        assert_eq!(without_ke(&esp("aes256gcm16-x25519-ke1_mlkem768")), esp("aes256gcm16"));
        assert!(classical(&esp("aes256gcm16-x25519-ke1_none")).is_empty());
    }

    #[test]
    fn post_quantum_proposals_leave_no_other_choice() {
        let proposals = parse_ike(
            "aes256gcm16-prfsha384-x25519, aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_none, \
             aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_mlkem1024, aes256gcm16-prfsha384-mlkem512, \
             aes256gcm16-prfsha384-mlkem512-x25519, aes256gcm16-prfsha384-x25519-ke1_ecp256-ke2_mlkem768",
        );
        let kept = post_quantum(&proposals.unwrap());
        let shown: Vec<_> = kept.iter().map(|p| format!("{} {}", p.number, Notation(p))).collect();
        assert_eq!(
            shown,
            [
                "1 aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_mlkem1024",
                "2 aes256gcm16-prfsha384-mlkem512",
                "3 aes256gcm16-prfsha384-x25519-ke1_ecp256-ke2_mlkem768",
            ]
        );
    }

    #[test]
    fn sequence_number_width_is_negotiated() {
        for (ours, theirs, expected) in [
            ("aes256gcm16-esn-noesn", "aes256gcm16-noesn", Some("aes256gcm16-noesn")),
            ("aes256gcm16-esn-noesn", "aes256gcm16-noesn-esn", Some("aes256gcm16-esn")),
            ("aes256gcm16-esn", "aes256gcm16", None),
        ] {
            assert_eq!(chosen(&esp(ours), &esp(theirs)).as_deref(), expected, "{ours} / {theirs}");
        }
        let mut silent = esp("aes256gcm16");
        silent[0].transforms.retain(|t| t.transform_type != TransformType::ESN);
        assert_eq!(chosen(&esp("aes256gcm16"), &silent).as_deref(), Some("aes256gcm16"));
        assert_eq!(chosen(&esp("aes256gcm16-esn"), &silent), None);
        assert!(without_esn(&esp("aes256gcm16-esn")).is_empty());
        assert_eq!(without_esn(&esp("aes256gcm16-esn-noesn")), esp("aes256gcm16-noesn"));
    }

    #[test]
    fn a_peer_may_only_choose_what_was_offered() {
        let offered = esp("aes256gcm16-esn, aes256-sha256-x25519");
        let good = |i: usize| offered[i].clone();
        assert!(answers(&offered, &good(0)));
        assert!(answers(&offered, &good(1)));
        let mut wrong_number = good(0);
        wrong_number.number = 2;
        assert!(!answers(&offered, &wrong_number), "transforms of another proposal");
        let mut two = good(0);
        two.transforms.push(transform(TransformType::ENCR, EncrId::AES_GCM_16.0, Some(256)));
        assert!(!answers(&offered, &two), "two of a type");
        let mut weaker = good(0);
        weaker.transforms[0] = transform(TransformType::ENCR, EncrId::AES_GCM_16.0, Some(128));
        assert!(!answers(&offered, &weaker));
        let mut no_esn = good(0);
        no_esn.transforms.retain(|t| t.transform_type != TransformType::ESN);
        assert!(!answers(&offered, &no_esn), "extended sequence numbers dropped");
        let mut no_ke = good(1);
        no_ke.transforms.retain(|t| t.transform_type != TransformType::KE);
        assert!(!answers(&offered, &no_ke), "key exchange dropped");
        let mut no_integ = good(1);
        no_integ.transforms.retain(|t| t.transform_type != TransformType::INTEG);
        assert!(!answers(&offered, &no_integ), "integrity dropped");
    }
}
