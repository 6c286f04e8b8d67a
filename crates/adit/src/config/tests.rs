//! The language as a whole: files in, configurations and diagnostics out.

use std::path::Path;

#[test]
fn the_example_is_a_configuration() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist/swanctl.conf.example");
    let configuration = super::load::load_from(&path, &super::load::Disk, |_| false).unwrap();
    assert!(configuration.warnings.is_empty(), "{:?}", configuration.warnings);
}
