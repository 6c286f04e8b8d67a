//! IP packets.
/// ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// ICMPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;
