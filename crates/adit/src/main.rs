#![forbid(unsafe_code)]
#![doc = "placeholder"]
fn main() {}
