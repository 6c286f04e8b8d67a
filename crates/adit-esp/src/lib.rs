#![forbid(unsafe_code)]
#![doc = "placeholder"]
