//! What clients push over vici to sign and to trust with: private keys, certificates, authorities, lists of what is revoked.
//!
//! It owns them and their bounds, beside what the file and its directories hold. Like secrets they are there for what begins
//! from now on, and do not outlive the daemon. No private key is ever given out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use adit_cert::{Certificate, Crl};
use adit_crypto::{PrivateKey, Signer, hash_sha1};
use adit_ike::config::Configuration;

use super::Daemon;
use crate::config::material;

/// Most keys, certificates and lists, each.
const MOST: usize = 10_000;

/// Most authorities with a name: all names have to fit into one message.
const MOST_NAMED: usize = 1_900;

/// Most octets of them together.
const MOST_OCTETS: usize = 64 << 20;

/// What is kept.
#[derive(Debug, Default)]
pub(super) struct Material {
    /// By the hash of the public key.
    keys: BTreeMap<String, Arc<dyn Signer>>,
    /// By the names of their sections.
    authorities: BTreeMap<String, Certificate>,
    trusted: Vec<Certificate>,
    others: Vec<Certificate>,
    crls: Vec<Crl>,
}

impl Material {
    /// Beside what is there already.
    pub(super) fn add_to(&self, configuration: &mut Configuration) {
        configuration.keys.extend(self.keys.values().cloned());
        for authority in self.authorities.values().chain(&self.trusted) {
            // That it is one was seen when it was loaded.
            let _ = configuration.trust.add_authority(authority.clone());
        }
        for certificate in &self.others {
            configuration.trust.add_intermediate(certificate.clone());
        }
        for crl in &self.crls {
            if let Err(error) = configuration.trust.add_crl(crl.clone()) {
                tracing::warn!("a list that a client has loaded is left out: {error}");
            }
        }
    }

    /// What keys can be unloaded by.
    pub(super) fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// What authorities can be unloaded by.
    pub(super) fn authorities(&self) -> impl Iterator<Item = (&str, &Certificate)> {
        self.authorities.iter().map(|(name, certificate)| (name.as_str(), certificate))
    }

    fn octets(&self) -> usize {
        let certificates = self.authorities.values().chain(&self.trusted).chain(&self.others);
        certificates.map(|one| one.der().len()).sum::<usize>()
            + self.crls.iter().map(|crl| crl.der().len()).sum::<usize>()
            + self.keys.values().map(|key| 4 * key.public_key().len()).sum::<usize>()
    }

    fn has_room_for(&self, octets: usize) -> Result<(), String> {
        let most = [self.keys.len(), self.trusted.len(), self.others.len(), self.crls.len()];
        if most.into_iter().any(|number| number >= MOST) || self.octets() + octets > MOST_OCTETS {
            return Err(format!(
                "there are {MOST} keys, certificates or lists, or {} MiB of them, and that is the most",
                MOST_OCTETS >> 20
            ));
        }
        Ok(())
    }
}

impl Daemon {
    /// Takes a private key over. Returns what it can be unloaded by.
    pub(super) fn load_key(&mut self, now: Instant, data: &[u8]) -> Result<String, String> {
        let der = material(data)?;
        let key = PrivateKey::from_der(&der).map_err(
            |_| "parsing the private key failed: RSA of 2048 bits or more, ECDSA or Ed25519 is needed",
        )?;
        let id = hex(&hash_sha1(&[key.public_key()]));
        self.pushed.material.has_room_for(data.len())?;
        if self.pushed.material.keys.insert(id.clone(), Arc::new(key)).is_none() {
            self.credentials_changed(now);
        }
        Ok(id)
    }

    /// Gives a private key up that was pushed. Was there one?
    pub(super) fn unload_key(&mut self, now: Instant, id: &str) -> bool {
        let was_there = self.pushed.material.keys.remove(&id.to_ascii_lowercase()).is_some();
        if was_there {
            self.credentials_changed(now);
        }
        was_there
    }

    /// Takes a certificate or a list over.
    pub(super) fn load_certificate(
        &mut self,
        now: Instant,
        kind: &str,
        flag: &str,
        data: &[u8],
    ) -> Result<(), String> {
        let der = material(data)?;
        let kept = &mut self.pushed.material;
        match (kind.to_ascii_uppercase().as_str(), flag.to_ascii_uppercase().as_str()) {
            ("X509", "NONE" | "") => {
                let new = certificate(&der)?;
                if kept.others.contains(&new) {
                    return Ok(());
                }
                kept.has_room_for(der.len())?;
                kept.others.push(new);
            }
            ("X509", "CA") | ("X509CA", _) => {
                let new = authority(&der)?;
                if kept.trusted.contains(&new) {
                    return Ok(());
                }
                kept.has_room_for(der.len())?;
                kept.trusted.push(new);
            }
            ("X509_CRL" | "X509CRL", _) => {
                let new = Crl::from_der(&der).map_err(|error| format!("parsing the CRL failed: {error}"))?;
                if kept.crls.iter().any(|crl| crl.der() == new.der()) {
                    return Ok(());
                }
                kept.has_room_for(der.len())?;
                kept.crls.push(new);
            }
            (kind, flag) => {
                return Err(format!(
                    "certificates of type {kind} {flag} are not done yet: nothing would use this one"
                ));
            }
        }
        self.credentials_changed(now);
        Ok(())
    }

    /// Trusts an authority, in the place of the one of the same name.
    pub(super) fn load_authority(&mut self, now: Instant, name: &str, data: &[u8]) -> Result<(), String> {
        let der = material(data)?;
        let new = authority(&der)?;
        self.pushed.material.has_room_for(der.len())?;
        if self.pushed.material.authorities.len() >= MOST_NAMED {
            return Err(format!("{MOST_NAMED} authorities are loaded, and that is the most"));
        }
        let same = self.pushed.material.authorities.get(name) == Some(&new);
        if !same {
            self.pushed.material.authorities.insert(name.to_owned(), new);
            self.credentials_changed(now);
        }
        Ok(())
    }

    /// Trusts an authority no more that was pushed. Was there one?
    pub(super) fn unload_authority(&mut self, now: Instant, name: &str) -> bool {
        let was_there = self.pushed.material.authorities.remove(name).is_some();
        if was_there {
            self.credentials_changed(now);
        }
        was_there
    }

    /// Gives up all that was pushed but authorities with a name, which are no credentials.
    pub(super) fn clear_material(&mut self) {
        let authorities = std::mem::take(&mut self.pushed.material.authorities);
        self.pushed.material = Material { authorities, ..Material::default() };
    }
}

fn certificate(der: &[u8]) -> Result<Certificate, String> {
    Certificate::from_der(der).map_err(|error| format!("parsing the certificate failed: {error}"))
}

fn authority(der: &[u8]) -> Result<Certificate, String> {
    let certificate = certificate(der)?;
    adit_cert::Store::default().add_authority(certificate.clone()).map_err(|error| error.to_string())?;
    Ok(certificate)
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
