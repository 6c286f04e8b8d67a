//! Where the two sides are: changes of addresses with MOBIKE (RFC 4555), and of a NAT's mapping without it
//! (RFC 7296 2.23).
//!
//! The IKE SA goes to a new address first; its Child SAs follow once the peer has proved to be there.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use adit_wire::esp::Mode;
use adit_wire::ikev2::{ExchangeType, Header, IkeSpi, Notify, NotifyType, Payload};
use tracing::{debug, info};

use super::established::{Established, Task};
use super::informational::Deletion;
use super::{Contents, Core, Incoming, State};
use crate::nat;
use crate::output::{DownReason, Output};
use crate::shared::Shared;

/// How long a peer gets to answer on the old path when a side without MOBIKE has another address now.
const DOUBT: Duration = Duration::from_secs(10);

/// Octets of our COOKIE2: 8 to 64, and nobody can guess it (RFC 4555 4.2.5).
const COOKIE2_LEN: usize = 16;

/// The path of an IKE SA, beside its addresses.
#[derive(Default)]
pub(crate) struct Mobility {
    /// Do both sides support MOBIKE?
    pub(crate) mobike: bool,
    /// Where ESP goes while the peer has not proved to be where the IKE SA believes it to be.
    proved: Option<EspPath>,
    /// No address of ours reaches the peer.
    pub(super) lost: bool,
    /// The peer must prove that the path still works, soon.
    pub(super) doubted: bool,
    /// NAT_DETECTION_DESTINATION_IP of the peer: how it saw us (RFC 4555 3.8).
    seen: Option<Vec<u8>>,
    /// The newest UPDATE_SA_ADDRESSES: SPI of the IKE SA and Message ID.
    newest: Option<(IkeSpi, u32)>,
}

/// Where the packets of a Child SA go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EspPath {
    pub(super) local: IpAddr,
    pub(super) remote: IpAddr,
    /// UDP ports, ours and the peer's (RFC 3948).
    pub(super) encap: Option<(u16, u16)>,
}

/// A request about the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Original initiator: UPDATE_SA_ADDRESSES (RFC 4555 3.5).
    Update,
    /// Is the peer where it seems to be (RFC 4555 3.7)?
    Verify,
    /// Original responder: the address in the IP header is our only one now (RFC 4555 3.6).
    Announce,
}

/// The same while it is outstanding.
pub(super) struct Asked {
    ask: Ask,
    path: (SocketAddr, SocketAddr),
    cookie: Option<[u8; COOKIE2_LEN]>,
}

/// MOBIKE_SUPPORTED, if the connection wants it (RFC 4555 3.2).
pub(super) fn supported(core: &Core) -> Option<Payload> {
    let notify = || Payload::Notify(Notify::new(NotifyType::MOBIKE_SUPPORTED, Vec::new()));
    core.connection.mobike.then(notify)
}

/// Has the peer said the same?
pub(super) fn agree(core: &mut Core, c: &Contents<'_>) {
    core.mobility.mobike = core.connection.mobike && c.has(NotifyType::MOBIKE_SUPPORTED);
}

impl Core {
    /// Where ESP goes now.
    pub(super) fn esp_path(&self, cx: &Shared) -> EspPath {
        self.mobility.proved.unwrap_or_else(|| EspPath {
            local: self.local.ip(),
            remote: self.remote.ip(),
            encap: self.nat.encapsulates().then(|| self.udp_ports(cx)),
        })
    }

    /// The UDP ports of ESP. A peer that found a NAT and still stayed on port 500 gets ESP on the port for it.
    fn udp_ports(&self, cx: &Shared) -> (u16, u16) {
        let local = self.local.port();
        let local = if local == cx.settings.ike_port { cx.settings.nat_t_port } else { local };
        let remote = self.remote.port();
        (local, if remote == 500 { 4500 } else { remote })
    }

    /// May the IKE SA use these addresses?
    fn allows(&self, local: IpAddr, remote: IpAddr) -> bool {
        let within = |specs: &[crate::config::AddressSpec], address| {
            specs.is_empty() || specs.iter().any(|spec| spec.contains(address))
        };
        within(&self.connection.local_addrs, local) && within(&self.connection.remote_addrs, remote)
    }
}

impl Established {
    /// Children go where the IKE SA went, as far as it is proved. In transport mode they belong to the two addresses,
    /// and go with them (RFC 4555 1.3 leaves that mode out).
    pub(super) fn follow_path(&mut self, core: &Core, cx: &mut Shared) {
        let path = core.esp_path(cx);
        for child in self.children.iter_mut().filter(|child| child.path != path) {
            let EspPath { local, remote, encap } = path;
            let stays = (child.path.local, child.path.remote) == (local, remote);
            child.path = path;
            if child.mode == Mode::Transport && !stays {
                let deletion = Deletion::of_children(&[child.handle], Vec::new(), DownReason::DataPlane);
                self.queue.push_back(Task::Delete(deletion));
                continue;
            }
            cx.outputs.push_back(Output::MoveChild { handle: child.handle, local, remote, encap });
        }
    }

    /// From here the peer is reached now, if it is.
    pub(super) fn path_changed(
        mut self: Box<Self>,
        core: &mut Core,
        cx: &mut Shared,
        local: Option<IpAddr>,
    ) -> State {
        let usable = local.filter(|a| a.is_ipv4() == core.remote.is_ipv4());
        let Some(local) = usable.filter(|a| *a == core.local.ip() || core.allows(*a, core.remote.ip()))
        else {
            if !std::mem::replace(&mut core.mobility.lost, true) {
                info!("connection \"{}\": no way to {}, waiting", core.connection.name, core.remote.ip());
            }
            return State::Established(self);
        };
        let found = std::mem::take(&mut core.mobility.lost);
        let schedule = core.schedule();
        if local == core.local.ip() {
            if found {
                self.ike.outstanding_mut().for_each(|o| o.renew(cx.now, schedule));
                self.queue.push_back(Task::Liveness);
            }
            return self.pump(core, cx);
        }
        if !core.mobility.mobike {
            // RFC 7296 has no way to tell the peer. If the old address is of no use any more, only a new IKE SA is.
            core.mobility.doubted = true;
            self.queue.push_front(Task::Liveness);
            self.doubt_since(cx.now);
            return self.pump(core, cx);
        }
        info!(
            "connection \"{}\": our address changed from {} to {local}",
            core.connection.name,
            core.local.ip()
        );
        core.local.set_ip(local);
        // RFC 4555 3.5: what is outstanding goes on from the new address.
        self.ike.outstanding_mut().for_each(|o| o.renew(cx.now, schedule));
        self.ask(if core.dialled { Ask::Update } else { Ask::Announce });
        self.pump(core, cx)
    }

    /// What is outstanding on a path in doubt is given up soon.
    pub(super) fn doubt_since(&mut self, now: std::time::Instant) {
        self.ike.outstanding_mut().for_each(|o| o.give_up_by(now + DOUBT));
    }

    /// The newest packet of ESP came from elsewhere (RFC 7296 2.23). With MOBIKE the original initiator sees to it.
    pub(super) fn esp_moved(self: Box<Self>, core: &mut Core, cx: &mut Shared, remote: SocketAddr) -> State {
        if core.is_moved_by_nat() && remote.port() != 0 {
            debug!(handle = core.handle.0, from = %core.remote, to = %remote, "the NAT moved the peer's ESP");
            core.remote = remote;
        }
        self.pump(core, cx)
    }

    /// Queues a request about the path, once.
    fn ask(&mut self, ask: Ask) {
        if !self.queue.iter().any(|task| matches!(task, Task::Path(other) if *other == ask)) {
            self.queue.push_front(Task::Path(ask));
        }
    }

    /// The payloads of such a request.
    pub(super) fn path_request(&self, core: &Core, cx: &mut Shared, ask: Ask) -> (Vec<Payload>, Asked) {
        let mut payloads = match ask {
            Ask::Update => {
                let mut payloads = vec![notify(NotifyType::UPDATE_SA_ADDRESSES, Vec::new())];
                payloads.extend(self.detect(core, cx));
                payloads
            }
            Ask::Verify => Vec::new(),
            Ask::Announce => vec![notify(NotifyType::NO_ADDITIONAL_ADDRESSES, Vec::new())],
        };
        // Our own new address needs no proof, the peer's does.
        let proves = ask == Ask::Verify || core.mobility.proved.is_some();
        let cookie = proves.then(|| cx.random::<COOKIE2_LEN>());
        payloads.extend(cookie.map(|cookie| notify(NotifyType::COOKIE2, cookie.to_vec())));
        (payloads, Asked { ask, path: (core.local, core.remote), cookie })
    }

    /// Its response is here. `Err` says why the IKE SA must end.
    pub(super) fn path_answered(
        &mut self,
        core: &mut Core,
        m: &Incoming<'_>,
        asked: &Asked,
        c: &Contents<'_>,
    ) -> Result<(), &'static str> {
        // RFC 4555 3.7: another value is no answer to what we sent.
        let cookie = c.notify(NotifyType::COOKIE2).map(|n| n.data.as_slice());
        if asked.cookie.is_some_and(|own| cookie != Some(&own[..])) {
            return Err("the peer's COOKIE2 is not ours");
        }
        // RFC 4555 3.5, 3.7: on the way the address changed again, and nothing is known about the new one.
        if asked.path != (core.local, core.remote) {
            return Ok(());
        }
        if c.has(NotifyType::UNACCEPTABLE_ADDRESSES) || c.has(NotifyType::UNEXPECTED_NAT_DETECTED) {
            return Err("the peer does not accept our new address");
        }
        if asked.cookie.is_some() {
            core.mobility.proved = None;
        }
        if asked.ask == Ask::Update {
            detect_nat(core, m, c);
            core.mobility.seen = seen(c);
        }
        debug!(handle = core.handle.0, ask = ?asked.ask, local = %core.local, remote = %core.remote, "path confirmed");
        Ok(())
    }

    /// What a liveness check asks beside: behind a NAT, whether it still shows us as before (RFC 4555 3.8).
    pub(super) fn liveness_payloads(&self, core: &Core, cx: &mut Shared) -> Vec<Payload> {
        let asks = core.dialled && core.mobility.mobike && core.nat.local;
        asks.then(|| self.detect(core, cx)).into_iter().flatten().collect()
    }

    /// The answer to that.
    pub(super) fn liveness_answered(&mut self, core: &mut Core, c: &Contents<'_>) {
        let Some(now) = seen(c).filter(|_| core.dialled && core.mobility.mobike) else { return };
        // The first answer may come after the change already: under traffic nobody asks before something is wrong.
        if core.mobility.seen.replace(now.clone()) != Some(now) {
            debug!(handle = core.handle.0, "the NAT before us may have another mapping");
            self.ask(Ask::Update);
        }
    }

    /// What a request of the peer says about the path; the answer to that, for its response.
    pub(super) fn respond_about_path(
        &mut self,
        core: &mut Core,
        cx: &mut Shared,
        m: &Incoming<'_>,
        c: &Contents<'_>,
    ) -> Vec<Payload> {
        if !core.mobility.mobike || m.header().exchange != ExchangeType::INFORMATIONAL {
            return Vec::new();
        }
        let mut answer = Vec::new();
        // RFC 4555 3.8, 3.7: both go back whatever else is asked.
        if c.has(NotifyType::NAT_DETECTION_SOURCE_IP) {
            answer.extend(nat_detection(core, cx, m.header(), (m.local, m.remote)));
        }
        answer.extend(c.notify(NotifyType::COOKIE2).map(|n| Payload::Notify(n.clone())));
        let update = c.has(NotifyType::UPDATE_SA_ADDRESSES) && !core.dialled;
        let addresses = [
            NotifyType::ADDITIONAL_IP4_ADDRESS,
            NotifyType::ADDITIONAL_IP6_ADDRESS,
            NotifyType::NO_ADDITIONAL_ADDRESSES,
        ];
        let announced = addresses.into_iter().any(|t| c.has(t)) && core.dialled;
        if !update && !announced {
            return answer;
        }
        // RFC 4555 3.5: with a larger window the newer request may come first.
        let this = (m.header().initiator_spi, m.header().message_id);
        if core.mobility.newest.is_some_and(|newest| newest.0 == this.0 && newest.1 > this.1) {
            return answer;
        }
        let refused = if c.notify(NotifyType::NO_NATS_ALLOWED).is_some_and(|n| n.data != addresses_of(m)) {
            Some(NotifyType::UNEXPECTED_NAT_DETECTED)
        } else if core.allows(m.local.ip(), m.remote.ip()) {
            None
        } else {
            Some(NotifyType::UNACCEPTABLE_ADDRESSES)
        };
        if let Some(refused) = refused {
            info!("connection \"{}\": address {} refused ({refused})", core.connection.name, m.remote);
            answer.push(notify(refused, Vec::new()));
            return answer;
        }
        core.mobility.newest = Some(this);
        if announced {
            self.peer_announced(core, cx, m, c);
        } else {
            self.peer_moved(core, cx, m, c);
        }
        answer
    }

    /// UPDATE_SA_ADDRESSES: the IKE SA goes there at once, its children after the return routability check.
    fn peer_moved(&mut self, core: &mut Core, cx: &mut Shared, m: &Incoming<'_>, c: &Contents<'_>) {
        self.move_to(core, cx, m);
        detect_nat(core, m, c);
        if core.mobility.proved.is_some() {
            self.ask(Ask::Verify);
        }
    }

    /// The responder's addresses changed. Which one is used is ours to say (RFC 4555 3.5).
    fn peer_announced(&mut self, core: &mut Core, cx: &mut Shared, m: &Incoming<'_>, c: &Contents<'_>) {
        let address = |n: &&Notify| match n.data.as_slice() {
            octets if n.notify_type == NotifyType::ADDITIONAL_IP4_ADDRESS => {
                <[u8; 4]>::try_from(octets).ok().map(IpAddr::from)
            }
            octets if n.notify_type == NotifyType::ADDITIONAL_IP6_ADDRESS => {
                <[u8; 16]>::try_from(octets).ok().map(IpAddr::from)
            }
            _ => None,
        };
        let current = core.remote.ip();
        if m.remote.ip() != current && !c.notifies.iter().filter_map(address).any(|a| a == current) {
            self.move_to(core, cx, m);
            self.ask(Ask::Update);
        }
    }

    /// The IKE SA goes where this message came from. The way of ESP stays until the peer has proved to be there.
    fn move_to(&mut self, core: &mut Core, cx: &Shared, m: &Incoming<'_>) {
        if (core.local, core.remote) == (m.local, m.remote) {
            return;
        }
        info!("connection \"{}\": the peer moved from {} to {}", core.connection.name, core.remote, m.remote);
        let before = core.esp_path(cx);
        if core.remote != m.remote {
            core.mobility.proved = Some(before);
        }
        (core.local, core.remote) = (m.local, m.remote);
        let schedule = core.schedule();
        self.ike.outstanding_mut().for_each(|o| o.renew(cx.now, schedule));
    }

    fn detect(&self, core: &Core, cx: &mut Shared) -> [Payload; 2] {
        let header = self.ike.header(ExchangeType::INFORMATIONAL, false, 0);
        nat_detection(core, cx, &header, (core.local, core.remote))
    }

    /// Why the IKE SA ends if nobody answers.
    pub(super) fn silence(core: &Core) -> DownReason {
        if core.mobility.doubted { DownReason::Failed } else { DownReason::PeerDead }
    }
}

fn nat_detection(
    core: &Core,
    cx: &mut Shared,
    header: &Header,
    (local, remote): (SocketAddr, SocketAddr),
) -> [Payload; 2] {
    let (spi_i, spi_r) = (header.initiator_spi, header.responder_spi);
    nat::notifies(spi_i, spi_r, local, remote, core.nat.fake, &mut *cx.entropy)
}

/// Enables or disables NAT traversal as the peer's hashes say, if it sent some.
fn detect_nat(core: &mut Core, m: &Incoming<'_>, c: &Contents<'_>) {
    let Header { initiator_spi, responder_spi, .. } = *m.header();
    let found = nat::detect(&c.notifies, initiator_spi, responder_spi, m.local, m.remote);
    if let Some(found) = found {
        core.nat = nat::Nat { fake: core.nat.fake, ..found };
    }
}

fn notify(notify_type: NotifyType, data: Vec<u8>) -> Payload {
    Payload::Notify(Notify::new(notify_type, data))
}

fn seen(c: &Contents<'_>) -> Option<Vec<u8>> {
    c.notify(NotifyType::NAT_DETECTION_DESTINATION_IP).map(|n| n.data.clone())
}

/// What NO_NATS_ALLOWED must say (RFC 4555 4.2.6): source and destination, addresses then ports.
fn addresses_of(m: &Incoming<'_>) -> Vec<u8> {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    let mut data = octets(m.remote.ip());
    data.extend(octets(m.local.ip()));
    data.extend(m.remote.port().to_be_bytes());
    data.extend(m.local.port().to_be_bytes());
    data
}
