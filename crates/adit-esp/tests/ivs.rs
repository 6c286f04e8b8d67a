//! The IVs of a million packets, as somebody on the way sees them.

use adit_crypto::EspTransforms;
use adit_esp::OutboundSa;
use adit_esp::fuzzing::{parameters, suites};
use adit_wire::ikev2::EncrId;

const PACKETS: usize = 1_000_000;

/// Where the low half of the sequence number comes round in the middle.
const BEFORE: u64 = (1 << 32) - PACKETS as u64 / 2;

/// RFC 4106 2: an IV that comes twice under one key gives the plaintexts and the authentication key away. RFC 3602 3: that of
/// CBC is not to be foreseen, and so is neither a counter nor taken from the packet before.
#[test]
fn adversarial_61_a_million_packets_have_as_many_ivs() {
    for (name, transforms) in suites().filter(|(_, transforms)| transforms.encr != EncrId::NULL) {
        let transforms = EspTransforms { esn: true, ..transforms };
        let mut sa = OutboundSa::resume(parameters(transforms), BEFORE).unwrap();
        let layout = sa.layout();
        let iv_place = 8..layout.payload_offset();
        let mut slot = vec![0; layout.packet_len(20)];
        let (mut ivs, mut steps) = (Vec::with_capacity(PACKETS), Vec::with_capacity(PACKETS));
        let (mut iv_before, mut block_before) = (0_u128, Vec::new());
        for _ in 0..PACKETS {
            sa.seal_at(&mut slot, 20, 4).unwrap();
            let octets = &slot[iv_place.clone()];
            assert_ne!(octets, block_before, "{name}: the last block of the packet before");
            let iv = octets.iter().fold(0, |iv, octet| iv << 8 | u128::from(*octet));
            ivs.push(iv);
            steps.push(iv.wrapping_sub(iv_before));
            iv_before = iv;
            let end = slot.len() - layout.icv_len();
            block_before = slot[end - octets.len()..end].to_vec();
        }
        ivs.sort_unstable();
        assert!(ivs.is_sorted_by(|a, b| a < b), "{name}: an IV came twice");
        if transforms.encr == EncrId::AES_CBC {
            steps.sort_unstable();
            assert!(steps.is_sorted_by(|a, b| a < b), "{name}: one step leads to two IVs");
        }
    }
}
