#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/adit-wire/tests/checks/mod.rs"]
mod checks;

fuzz_target!(|data: &[u8]| checks::ip_flow(data));
