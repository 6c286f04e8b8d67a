//! The body of the fuzz target `aes_gcm`: the vector code and the library are given the same, and have to say the same.
//! Never part of what runs.

use crate::protection::aes_gcm_pair;

/// Octets of IV and ICV.
const IV_LEN: usize = 8;
const ICV_LEN: usize = 16;

/// `data` is six octets that say what the rest is, then a key with its salt, an IV, associated data and a text.
///
/// # Panics
/// Where they differ.
#[expect(clippy::unwrap_used, reason = "a check that cannot go on has found something")]
pub fn aes_gcm_any(data: &[u8]) {
    let Some(([kind, associated, end, changed, bit, times], rest)) = data.split_first_chunk::<6>() else {
        return;
    };
    let key_len = if kind & 1 == 0 { 16 } else { 32 };
    let Some((key, rest)) = rest.split_at_checked(key_len + 4) else { return };
    let Some((iv, rest)) = rest.split_at_checked(IV_LEN) else { return };
    let associated = usize::from(*associated).min(rest.len());
    let (associated, text) = rest.split_at(associated);
    // What a fuzzer gives is short; packets are long.
    let text = text.repeat(usize::from(*times % 32) + 1);
    let (front, end) = text.split_at(text.len() - usize::from(*end).min(text.len()));

    let pair = aes_gcm_pair(key).unwrap();
    let [one, other] = pair.each_ref().map(|protection| {
        let mut packet = vec![0x55; text.len() + ICV_LEN];
        protection.seal_into(iv, associated, &[], [front, end], &mut packet).unwrap();
        let (mut body, mut icv) = (text.clone(), [0; ICV_LEN]);
        protection.seal(iv, associated, &[], &mut body, &mut icv).unwrap();
        assert_eq!(packet, [&body[..], &icv].concat(), "apart and in place");
        packet
    });
    assert_eq!(one, other, "vectors and library");

    let mut forged = one.clone();
    let at = usize::from(*changed) * usize::from(*times) % forged.len();
    if let Some(octet) = forged.get_mut(at) {
        *octet ^= 1 << (bit % 8);
    }
    for protection in &pair {
        let open = |packet: &[u8]| {
            let (body, icv) = packet.split_last_chunk::<ICV_LEN>().unwrap();
            let mut body = body.to_vec();
            protection.open(iv, associated, &[], &mut body, icv).map(|()| body)
        };
        assert_eq!(open(&one).as_ref(), Ok(&text));
        assert!(open(&forged).is_err(), "a forgery is opened");
    }
}
