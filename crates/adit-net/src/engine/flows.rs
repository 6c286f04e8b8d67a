//! Which SA carries the packets of a flow, as a lookup has found it. It holds the flows of late, as many as are likely to be under
//! way at once, and knows neither policies nor SAs: whoever changes one of those forgets all of it.

use std::net::IpAddr;

use adit_wire::ip::Flow;

use super::Device;
use super::sas::Place;

/// Flows, each in the one place that its hash gives it.
pub(super) struct Flows {
    entries: Box<[Entry]>,
    /// Entries of others are forgotten.
    generation: u32,
}

/// No more than a line of the processor's caches.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Entry {
    flow: Flow,
    place: Place,
    generation: u32,
}

const _: () = assert!(size_of::<Entry>() == 64);

/// So many entries at least, and at most, however many SAs there are.
const LEAST: usize = 1 << 12;
const MOST: usize = 1 << 17;

impl Default for Flows {
    fn default() -> Self {
        Self { entries: Box::new([]), generation: 0 }
    }
}

impl Flows {
    #[inline]
    pub(super) fn get(&self, device: Device, flow: &Flow) -> Option<Place> {
        let flow = key(device, flow);
        let entry = self.entries.get(self.index(&flow))?;
        (entry.generation == self.generation && entry.flow == flow).then_some(entry.place)
    }

    /// In place of another flow. There are so many SAs.
    pub(super) fn insert(&mut self, device: Device, flow: Flow, place: Place, sas: usize) {
        let flow = key(device, &flow);
        let entry = Entry { flow, place, generation: self.generation };
        let len = sas.next_power_of_two().clamp(LEAST, MOST);
        if self.entries.len() < len {
            self.entries = vec![entry; len].into();
        }
        if let Some(old) = self.entries.get_mut(self.index(&flow)) {
            *old = entry;
        }
    }

    pub(super) fn forget(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        if self.generation == 0 {
            self.entries = Box::new([]);
        }
    }

    /// Who chooses flows that meet only makes their lookups slow.
    fn index(&self, flow: &Flow) -> usize {
        // A power of two, or 0.
        hash(flow) as usize & self.entries.len().wrapping_sub(1)
    }
}

/// A flow is one that comes from one device. Its number stands where the length of a packet would, which is not the flow's.
fn key(device: Device, flow: &Flow) -> Flow {
    Flow { total_len: device.0, ..*flow }
}

fn hash(flow: &Flow) -> u64 {
    let word = |address| match address {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            (bits ^ bits >> 64) as u64
        }
    };
    let ports = [flow.source_port, flow.destination_port].map(|port| u64::from(port.unwrap_or(0)));
    let [source, destination] = ports;
    let hash = (word(flow.source) ^ source << 32 ^ u64::from(flow.protocol) << 56)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(29)
        ^ (word(flow.destination) ^ destination << 32);
    hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Device = Device::SHARED;

    fn flow(host: u8, port: u16) -> Flow {
        Flow {
            source: [10, 1, 0, host].into(),
            destination: [10, 2, 0, 1].into(),
            protocol: 17,
            source_port: Some(port),
            destination_port: Some(53),
            fragment: false,
            total_len: 0,
        }
    }

    #[test]
    fn a_flow_is_found_until_another_takes_its_place_or_all_is_forgotten() {
        let mut flows = Flows::default();
        assert_eq!(flows.get(HERE, &flow(1, 1)), None);
        let all: Vec<Flow> = (0..40).flat_map(|host| (0..50).map(move |port| flow(host, port))).collect();
        for (number, flow) in all.iter().enumerate() {
            flows.insert(HERE, *flow, Place::at(number), 1);
            assert_eq!(flows.get(HERE, flow), Some(Place::at(number)));
        }
        let kept = |flows: &Flows| -> Vec<usize> {
            let right = |number: &usize| flows.get(HERE, &all[*number]) == Some(Place::at(*number));
            let kept: Vec<usize> = (0..all.len()).filter(right).collect();
            assert_eq!(kept.len(), all.iter().filter(|flow| flows.get(HERE, flow).is_some()).count());
            kept
        };
        // Flows that differ little are spread over all places.
        assert!(all.iter().all(|flow| flows.get(Device(1), flow).is_none()));
        assert!((1500..2000).contains(&kept(&flows).len()));
        flows.forget();
        assert!(kept(&flows).is_empty());
        flows.insert(HERE, all[3], Place::at(3), 1);
        assert_eq!(kept(&flows), [3], "what was forgotten stays so");
    }
}
