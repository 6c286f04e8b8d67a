//! NAT detection (RFC 7296 2.23): both sides send hashes of the addresses they believe in and compare what arrives.

use std::net::{IpAddr, SocketAddr};

use adit_crypto::{Entropy, hash_sha1};
use adit_wire::ikev2::{IkeSpi, Notify, NotifyType, Payload};

/// What NAT detection found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nat {
    /// Our address is translated on the way.
    pub(crate) local: bool,
    /// The peer's address is.
    pub(crate) remote: bool,
    /// We made the peer believe that ours is (`encap = yes`).
    pub(crate) fake: bool,
}

impl Nat {
    /// Must ESP go through UDP (RFC 3948)?
    pub(crate) fn encapsulates(self) -> bool {
        self.local || self.remote || self.fake
    }
}

/// `SHA-1(SPIs | address | port)`.
fn hash(spi_i: IkeSpi, spi_r: IkeSpi, address: SocketAddr) -> [u8; 20] {
    let octets = match address.ip() {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    hash_sha1(&[&spi_i.0.to_be_bytes(), &spi_r.0.to_be_bytes(), &octets, &address.port().to_be_bytes()])
}

/// The two notifies of our IKE_SA_INIT message. With `fake` the source hash fits no address, so that the peer finds
/// a NAT where there is none.
pub(crate) fn notifies(
    spi_i: IkeSpi,
    spi_r: IkeSpi,
    local: SocketAddr,
    remote: SocketAddr,
    fake: bool,
    entropy: &mut dyn Entropy,
) -> [Payload; 2] {
    let mut source = hash(spi_i, spi_r, local);
    if fake {
        entropy.fill(&mut source);
    }
    let notify = |t, data: [u8; 20]| Payload::Notify(Notify::new(t, data.to_vec()));
    [
        notify(NotifyType::NAT_DETECTION_SOURCE_IP, source),
        notify(NotifyType::NAT_DETECTION_DESTINATION_IP, hash(spi_i, spi_r, remote)),
    ]
}

/// Compares the peer's hashes with where its message came from and went to; `None` if it sent none, that is, if it
/// does not do NAT traversal. A peer with several addresses sends several source hashes, one of which must fit.
pub(crate) fn detect(
    notifies: &[&Notify],
    spi_i: IkeSpi,
    spi_r: IkeSpi,
    local: SocketAddr,
    remote: SocketAddr,
) -> Option<Nat> {
    let of = |t| notifies.iter().filter(move |n| n.notify_type == t);
    let mut sources = of(NotifyType::NAT_DETECTION_SOURCE_IP).peekable();
    let mut destinations = of(NotifyType::NAT_DETECTION_DESTINATION_IP).peekable();
    sources.peek()?;
    destinations.peek()?;
    Some(Nat {
        local: !destinations.any(|n| n.data == hash(spi_i, spi_r, local)),
        remote: !sources.any(|n| n.data == hash(spi_i, spi_r, remote)),
        fake: false,
    })
}

#[cfg(test)]
mod tests {
    use adit_crypto::testing::SeededEntropy;

    use super::*;

    /// Sends notifies from `from` (as the sender sees it) to `to`; they arrive from `seen_from` at `seen_to`.
    fn found(from: &str, to: &str, seen_from: &str, seen_to: &str, fake: bool) -> Nat {
        let address = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let (i, r) = (IkeSpi(1), IkeSpi(2));
        let payloads = notifies(i, r, address(from), address(to), fake, &mut SeededEntropy::new(3));
        let notifies: Vec<&Notify> =
            payloads.iter().filter_map(|p| if let Payload::Notify(n) = p { Some(n) } else { None }).collect();
        detect(&notifies, i, r, address(seen_to), address(seen_from)).unwrap()
    }

    #[test]
    fn nat_is_found_where_it_is() {
        let (a, b, n) = ("10.0.0.1:500", "192.0.2.2:500", "198.51.100.9:1024");
        assert_eq!(found(a, b, a, b, false), Nat::default());
        assert_eq!(found(a, b, n, b, false), Nat { remote: true, ..Nat::default() });
        assert_eq!(found(a, n, a, b, false), Nat { local: true, ..Nat::default() });
        assert_eq!(found(a, b, a, b, true), Nat { remote: true, ..Nat::default() });
        assert_eq!(
            found(a, b, "10.0.0.1:501", b, false),
            Nat { remote: true, ..Nat::default() },
            "port only"
        );
        assert_eq!(
            found("[fd00::1]:500", "[fd00::2]:500", "[fd00::1]:500", "[fd00::2]:500", false),
            Nat::default()
        );
    }

    #[test]
    fn one_of_several_source_hashes_fits() {
        let (i, r) = (IkeSpi(1), IkeSpi(2));
        let local: SocketAddr = "192.0.2.2:500".parse().unwrap();
        let remote: SocketAddr = "192.0.2.1:500".parse().unwrap();
        let notify = |t, data: Vec<u8>| Notify::new(t, data);
        let other = notify(NotifyType::NAT_DETECTION_SOURCE_IP, vec![7; 20]);
        let fitting = notify(NotifyType::NAT_DETECTION_SOURCE_IP, hash(i, r, remote).to_vec());
        let destination = notify(NotifyType::NAT_DETECTION_DESTINATION_IP, hash(i, r, local).to_vec());
        assert_eq!(detect(&[&other, &fitting, &destination], i, r, local, remote), Some(Nat::default()));
        assert_eq!(detect(&[&other], i, r, local, remote), None, "half of it is nothing");
        assert_eq!(detect(&[], i, r, local, remote), None);
    }
}
