//! Many SAs, and many policies, through both gateways: two data planes with keys set by hand, so that nothing is there twice but
//! SAs and policies. The same packets for the same destinations pass one SA, or as many as there are destinations.
//!
//! All that leads into a tunnel is one interface with one route, however many there are: the kernel has the same to do for all.

use std::net::{IpAddr, Ipv4Addr};

use adit_crypto::{EspKeys, EspTransforms, Secret, encr_key_len};
use adit_esp::{Mode, ReplayWindow, SaParameters};
use adit_lab::lab::{Family, Lab, Node, SIDES, Side, Topology, with_lab};
use adit_lab::process::tell;
use adit_net::{
    Backend, ChildId, ChildSaInstall, InterfaceSpec, Limits, NetConfig, PolicyId, PolicySpec, Treatment,
    UdpEncap, Userspace,
};
use adit_wire::ikev2::{EncrId, Spi, TrafficSelector};
use anyhow::{Context, Result};

use crate::dataplane::received;
use crate::results::{Recorder, Turns};

/// Octets of a datagram whose packet has 64.
const DATAGRAM: usize = 36;
/// The policies of row 9, and the flows under them.
const POLICIES: u32 = 1000;
const FLOWS: [u32; 2] = [16, 256];

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    turns: Turns,
    /// How many SAs there are, from few to many.
    #[arg(long, value_delimiter = ',', default_value = "10000,100000")]
    sas: Vec<u32>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let recorder = Recorder::new(&options.turns.results)?;
    let counts: Vec<u32> = [1, POLICIES].into_iter().chain(options.sas.iter().copied()).collect();
    among(&counts, &[], &|labs| {
        let of = |wanted| labs.iter().find(|(count, _)| *count == wanted).map(|(_, lab)| *lab);
        for round in 0..=options.turns.rounds {
            let turn = |sas: u32, measure: &str, step: u32, destinations: u32| -> Result<()> {
                let rate =
                    scattered(of(sas).context("a laboratory")?, options.turns.seconds, step, destinations)?;
                // In the first round, flows and keys that are to be used again and again are used for the first time.
                if round == 0 { Ok(()) } else { recorder.value(&format!("sas-{sas}"), measure, rate) }
            };
            for &count in &options.sas {
                turn(1, &format!("any-{count}"), 1, count)?;
                turn(count, &format!("any-{count}"), 1, count)?;
            }
            for flows in FLOWS {
                turn(1, &format!("flows-{flows}"), POLICIES / flows, flows)?;
                turn(POLICIES, &format!("flows-{flows}"), POLICIES / flows, flows)?;
            }
        }
        Ok(())
    })
}

/// A laboratory with tunnels of so many SAs.
type Built<'l> = (u32, &'l Lab);

/// Builds a laboratory for each of these numbers of SAs, beside those that are there, and works in all of them.
fn among(counts: &[u32], built: &[Built<'_>], work: &dyn Fn(&[Built<'_>]) -> Result<()>) -> Result<()> {
    let Some((&count, rest)) = counts.split_first() else { return work(built) };
    with_lab("scale", Topology { direct: true, ..Topology::default() }, |lab| {
        lead_to_host(lab)?;
        let planes = [plane(lab, Side::A, count)?, plane(lab, Side::B, count)?];
        let built: Vec<Built<'_>> = built.iter().copied().chain([(count, lab)]).collect();
        let result = among(rest, &built, work);
        for (plane, side) in planes.into_iter().zip(SIDES) {
            let lost: Vec<_> = plane.stats().drops.into_iter().filter(|(_, count)| *count > 0).collect();
            tell(&format!("{count} SAs, {side}: dropped {lost:?}"));
            plane.shutdown();
        }
        result
    })
}

/// Packets that arrive per second of those that are sent to any of so many destinations, these apart.
fn scattered(lab: &Lab, seconds: u32, step: u32, destinations: u32) -> Result<f64> {
    let address = format!("{}:6000", destination(0));
    let (step, destinations, size) = (step.to_string(), destinations.to_string(), DATAGRAM.to_string());
    let arguments = ["scatter", &address, "--step", &step, "--destinations", &destinations, "--size", &size];
    received(lab, seconds, &arguments)
}

const INTERFACE: &str = "scale0";
/// All destinations.
const NETWORK: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 128, 0, 0), 9);

fn destination(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(NETWORK.0.to_bits() + number)
}

/// The host of B has all destinations.
fn lead_to_host(lab: &Lab) -> Result<()> {
    let network = format!("{}/{}", NETWORK.0, NETWORK.1);
    lab.run(Node::GatewayB, "ip", &["route", "add", &network, "via", Side::B.host(Family::V4)])?;
    lab.run(Node::HostB, "ip", &["route", "add", "local", &network, "dev", "lo"])?;
    Ok(())
}

/// A data plane with so many SA pairs, each with a policy of its own: one for each destination, or for all of them.
fn plane(lab: &Lab, side: Side, count: u32) -> Result<Box<Userspace>> {
    lab.inside(side.gateway(), || -> Result<Box<Userspace>> {
        let mut plane = Userspace::start(NetConfig::default(), Box::new(drop))?;
        let (address, width) = if side == Side::A { (NETWORK.0.into(), NETWORK.1) } else { sender()? };
        plane.set_interfaces(vec![InterfaceSpec {
            name: INTERFACE.to_owned(),
            routes: vec![(address, width)],
            ..InterfaceSpec::default()
        }])?;
        let (from, to) = selectors(count)?;
        let policies = to.iter().enumerate().map(|(number, to)| {
            let (local, remote) = if side == Side::A { (&from, to) } else { (to, &from) };
            let id = PolicyId(number as u64);
            PolicySpec {
                interface: Some(INTERFACE.to_owned()),
                ..PolicySpec::new(id, "", vec![*local], vec![*remote])
            }
        });
        plane.set_policies(policies.collect())?;
        for (number, to) in (0..).zip(&to) {
            plane.install(child(side, number, &from, to)?)?;
        }
        Ok(Box::new(plane))
    })?
}

fn sender() -> Result<(IpAddr, u8)> {
    Side::A.prefixes()?.into_iter().find(|(address, _)| address.is_ipv4()).context("a network")
}

/// The sender's network, and the destinations of each SA.
fn selectors(count: u32) -> Result<(TrafficSelector, Vec<TrafficSelector>)> {
    let (address, width) = sender()?;
    let to = if count == 1 {
        vec![TrafficSelector::subnet(NETWORK.0.into(), NETWORK.1)]
    } else {
        (0..count).map(|number| TrafficSelector::subnet(destination(number).into(), 32)).collect()
    };
    Ok((TrafficSelector::subnet(address, width), to))
}

/// AES-256-GCM with extended sequence numbers, ESP in UDP.
fn child(side: Side, number: u32, from: &TrafficSelector, to: &TrafficSelector) -> Result<ChildSaInstall> {
    let transforms = EspTransforms { encr: EncrId::AES_GCM_16, key_bits: Some(256), integ: None, esn: true };
    let half = |sender: Side| {
        let (near, far) = if side == Side::A { (from, to) } else { (to, from) };
        let key = 0..encr_key_len(transforms.encr, transforms.key_bits).unwrap_or(0);
        let octet = |at: usize| (number >> (8 * (at % 4))) as u8 ^ sender as u8;
        SaParameters {
            // With a slot above its lane, as `adit-ike` makes them.
            spi: Spi(1 << 30 | number << 6),
            mode: Mode::Tunnel,
            transforms,
            keys: EspKeys { encr: Secret::new(key.map(octet).collect()), integ: Secret::new(Vec::new()) },
            replay_window: ReplayWindow::DEFAULT_SIZE,
            local_ts: vec![*near],
            remote_ts: vec![*far],
            original: None,
        }
    };
    Ok(ChildSaInstall {
        id: ChildId(number.into()),
        name: String::new(),
        policy: PolicyId(number.into()),
        inbound: half(side.other()),
        outbound: half(side),
        local: side.outer(Family::V4).parse()?,
        remote: side.other().outer(Family::V4).parse()?,
        encap: Some(UdpEncap { local_port: 4500, remote_port: 4500 }),
        active: true,
        limits: Limits::default(),
        treatment: Treatment::default(),
        worker: None,
    })
}
