//! Stateless cookies (RFC 7296 2.6): proof that an initiator receives at the address it sends from, at no memory.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_crypto::{Entropy, Prf, Secret, constant_time_eq};
use adit_wire::ikev2::{IkeSpi, PrfId};

/// Makes and checks cookies. The secret changes while it is used; the last one stays good for one more period.
pub(crate) struct CookieJar {
    current: Key,
    previous: Option<Key>,
    changed: Instant,
}

struct Key {
    /// First octet of the cookies made with it, so that a check costs one PRF.
    id: u8,
    secret: Secret,
}

impl CookieJar {
    /// How long a secret makes cookies.
    const PERIOD: Duration = Duration::from_secs(60);

    pub(crate) fn new(now: Instant, entropy: &mut dyn Entropy) -> Self {
        Self { current: Key::new(0, entropy), previous: None, changed: now }
    }

    /// The cookie for an initiator: `id | prf(secret, Ni | IPi | port | SPIi)`.
    pub(crate) fn make(
        &mut self,
        now: Instant,
        entropy: &mut dyn Entropy,
        nonce: &[u8],
        remote: SocketAddr,
        spi: IkeSpi,
    ) -> Option<Vec<u8>> {
        self.rotate(now, entropy);
        self.current.cookie(nonce, remote, spi)
    }

    /// Is it one we made for exactly this initiator, not too long ago?
    pub(crate) fn check(
        &mut self,
        now: Instant,
        entropy: &mut dyn Entropy,
        cookie: &[u8],
        nonce: &[u8],
        remote: SocketAddr,
        spi: IkeSpi,
    ) -> bool {
        self.rotate(now, entropy);
        let Some(id) = cookie.first() else { return false };
        [Some(&self.current), self.previous.as_ref()]
            .into_iter()
            .flatten()
            .filter(|key| key.id == *id)
            .filter_map(|key| key.cookie(nonce, remote, spi))
            .any(|own| constant_time_eq(&own, cookie))
    }

    fn rotate(&mut self, now: Instant, entropy: &mut dyn Entropy) {
        let age = now.saturating_duration_since(self.changed);
        if age < Self::PERIOD {
            return;
        }
        let fresh = Key::new(self.current.id.wrapping_add(1), entropy);
        let old = std::mem::replace(&mut self.current, fresh);
        self.previous = (age < Self::PERIOD * 2).then_some(old);
        self.changed = now;
    }
}

impl Key {
    fn new(id: u8, entropy: &mut dyn Entropy) -> Self {
        let mut secret = vec![0; 32];
        entropy.fill(&mut secret);
        Self { id, secret: Secret::new(secret) }
    }

    fn cookie(&self, nonce: &[u8], remote: SocketAddr, spi: IkeSpi) -> Option<Vec<u8>> {
        // Every build has HMAC-SHA-256; without it there would be no cookies, not bad ones.
        let prf = Prf::new(PrfId::HMAC_SHA2_256).ok()?;
        let address = match remote.ip() {
            std::net::IpAddr::V4(a) => a.octets().to_vec(),
            std::net::IpAddr::V6(a) => a.octets().to_vec(),
        };
        let parts: [&[u8]; 4] = [nonce, &address, &remote.port().to_be_bytes(), &spi.0.to_be_bytes()];
        let mac = prf.compute(self.secret.expose(), &parts);
        Some([&[self.id], mac.expose()].concat())
    }
}

#[cfg(test)]
mod tests {
    use adit_crypto::testing::SeededEntropy;

    use super::*;

    #[test]
    fn a_cookie_is_good_for_its_initiator_and_its_time() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut entropy = SeededEntropy::new(1);
        let mut jar = CookieJar::new(start, &mut entropy);
        let remote: SocketAddr = "192.0.2.1:500".parse().unwrap();
        let spi = IkeSpi(7);
        let cookie = jar.make(start, &mut entropy, b"nonce nonce nonce", remote, spi).unwrap();
        assert!(cookie.len() <= 64, "RFC 7296 2.6: between 1 and 64 octets");

        let mut good = |at, cookie: &[u8], nonce: &[u8], remote, spi| {
            jar.check(at, &mut entropy, cookie, nonce, remote, spi)
        };
        let nonce = b"nonce nonce nonce";
        assert!(good(start, &cookie, nonce, remote, spi));
        assert!(!good(start, &cookie, b"nonce nonce Nonce", remote, spi));
        assert!(!good(start, &cookie, nonce, "192.0.2.2:500".parse().unwrap(), spi));
        assert!(!good(start, &cookie, nonce, "192.0.2.1:501".parse().unwrap(), spi));
        assert!(!good(start, &cookie, nonce, remote, IkeSpi(8)));
        assert!(!good(start, &[], nonce, remote, spi));
        assert!(!good(start, &[0; 65], nonce, remote, spi));
        assert!(good(after(59), &cookie, nonce, remote, spi));
        assert!(good(after(61), &cookie, nonce, remote, spi), "the last secret is still good");
        assert!(!good(after(125), &cookie, nonce, remote, spi), "the one before is not");
    }

    #[test]
    fn an_unused_jar_forgets_its_secret() {
        let start = Instant::now();
        let mut entropy = SeededEntropy::new(1);
        let mut jar = CookieJar::new(start, &mut entropy);
        let remote: SocketAddr = "192.0.2.1:500".parse().unwrap();
        let cookie = jar.make(start, &mut entropy, b"n", remote, IkeSpi(7)).unwrap();
        let later = start + Duration::from_secs(3600);
        assert!(!jar.check(later, &mut entropy, &cookie, b"n", remote, IkeSpi(7)));
    }
}
