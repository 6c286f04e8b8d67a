//! A model of a data plane: it obeys the orders of a gateway to the letter and says what is wrong with them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use adit_ike::{ChildHandle, InstallChild};
use adit_wire::ikev2::Spi;

/// What may become of the outbound half of a Child SA (standards 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outbound {
    /// Known, not used yet.
    Standby,
    /// Used, unless another of the same policy became active after it. The number says in which order they did.
    Active(u64),
    /// Never used again.
    Retired(Instant),
}

pub(crate) struct Sa {
    pub(crate) install: InstallChild,
    pub(crate) outbound: Outbound,
    /// A message that says we delete it has left: nothing may be sent on it any more.
    pub(crate) announced: bool,
}

/// What was ever installed.
pub(crate) struct Ever {
    pub(crate) handle: ChildHandle,
    pub(crate) inbound_spi: Spi,
    pub(crate) outbound_spi: Spi,
    /// It was to be used, once at least.
    pub(crate) active: bool,
    /// When it was removed.
    gone: Option<Instant>,
}

/// One packet of the stream.
#[derive(Clone, Debug)]
pub(crate) struct EspPacket {
    pub(crate) due: Instant,
    pub(crate) spi: Spi,
    key: [u8; 8],
    pub(crate) number: u64,
}

#[derive(Default)]
pub(crate) struct Plane {
    pub(crate) sas: BTreeMap<ChildHandle, Sa>,
    pub(crate) ever: Vec<Ever>,
    activations: u64,
    /// The numbers that arrived.
    received: Vec<bool>,
    sent: u64,
}

fn key_of(octets: &[u8]) -> [u8; 8] {
    *octets.first_chunk().unwrap()
}

impl Plane {
    pub(crate) fn install(
        &mut self,
        install: InstallChild,
        drain: Duration,
        now: Instant,
    ) -> Result<(), String> {
        let (inbound, outbound) = (install.inbound_spi, install.outbound_spi);
        let twice =
            self.ever.iter().any(|e| e.inbound_spi == inbound && e.gone.is_none_or(|at| now < at + drain));
        if twice {
            return Err(format!("inbound SPI {inbound} is installed while it is in use or draining"));
        }
        let handle = install.handle;
        let active = install.active;
        if self.ever.iter().any(|e| e.handle == handle) {
            return Err(format!("{handle:?} is installed twice"));
        }
        let sa = Sa { install, outbound: Outbound::Standby, announced: false };
        self.sas.insert(handle, sa);
        self.ever.push(Ever {
            handle,
            inbound_spi: inbound,
            outbound_spi: outbound,
            active: false,
            gone: None,
        });
        if active {
            self.activate(handle);
        }
        Ok(())
    }

    fn activate(&mut self, handle: ChildHandle) {
        let Some(sa) = self.sas.get_mut(&handle) else { return };
        if sa.outbound == Outbound::Standby {
            self.activations += 1;
            sa.outbound = Outbound::Active(self.activations);
            for ever in self.ever.iter_mut().filter(|e| e.handle == handle) {
                ever.active = true;
            }
        }
    }

    pub(crate) fn switch(&mut self, handle: ChildHandle) -> Result<(), String> {
        match self.sas.get(&handle).map(|sa| sa.outbound) {
            None => Err(format!("a switch to {handle:?}, which is not installed")),
            Some(Outbound::Retired(_)) => Err(format!("a switch to {handle:?}, which is retired")),
            Some(_) => {
                self.activate(handle);
                Ok(())
            }
        }
    }

    pub(crate) fn retire(&mut self, handle: ChildHandle, now: Instant) -> Result<(), String> {
        let sa =
            self.sas.get_mut(&handle).ok_or_else(|| format!("{handle:?} is retired and not installed"))?;
        if !matches!(sa.outbound, Outbound::Retired(_)) {
            sa.outbound = Outbound::Retired(now);
        }
        Ok(())
    }

    pub(crate) fn remove(&mut self, handle: ChildHandle, now: Instant) -> Result<Sa, String> {
        let sa =
            self.sas.remove(&handle).ok_or_else(|| format!("{handle:?} is removed and not installed"))?;
        for ever in self.ever.iter_mut().filter(|e| e.handle == handle) {
            ever.gone = Some(now);
        }
        Ok(sa)
    }

    /// The one that carries what is sent for a child of this name.
    pub(crate) fn active(&self, child: &str) -> Option<&Sa> {
        self.sas
            .values()
            .filter(|sa| sa.install.child == child)
            .filter_map(|sa| if let Outbound::Active(order) = sa.outbound { Some((order, sa)) } else { None })
            .max_by_key(|(order, _)| *order)
            .map(|(_, sa)| sa)
    }

    /// Sends the next packet of the stream; `None` if there is nothing to send it on.
    pub(crate) fn send(&mut self, child: &str, due: Instant) -> Result<Option<EspPacket>, String> {
        let number = self.sent;
        self.sent += 1;
        let Some(handle) = self.active(child).map(|sa| sa.install.handle) else { return Ok(None) };
        let sa = &self.sas[&handle];
        let spi = sa.install.outbound_spi;
        if sa.announced {
            return Err(format!(
                "packet {number} is sent on {spi}, of which the peer was told that it is deleted"
            ));
        }
        Ok(Some(EspPacket { due, spi, key: key_of(sa.install.outbound_keys.encr.expose()), number }))
    }

    /// Takes a packet; says whether it could be used.
    pub(crate) fn receive(&mut self, packet: &EspPacket) -> Result<bool, String> {
        let Some(sa) = self.sas.values().find(|sa| sa.install.inbound_spi == packet.spi) else {
            return Ok(false);
        };
        if key_of(sa.install.inbound_keys.encr.expose()) != packet.key {
            return Err(format!("packet {} on {}: the keys of both sides differ", packet.number, packet.spi));
        }
        let handle = sa.install.handle;
        let number = usize::try_from(packet.number).unwrap();
        if self.received.len() <= number {
            self.received.resize(number + 1, false);
        }
        if std::mem::replace(&mut self.received[number], true) {
            return Err(format!("packet {number} arrived twice"));
        }
        // RFC 7296 2.8: whoever sends on it can receive on it.
        self.activate(handle);
        Ok(true)
    }
}
