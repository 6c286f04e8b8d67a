//! Algorithms in the spelling of `ipsec.conf`, as the words of `swanctl.conf`.
//!
//! Whether there is such a word is for the configuration language to say.

use super::Dialect;

/// What an `ike` or `esp` line asks for. strongSwan adds its defaults unless there is a `!`; Libreswan never does.
pub(super) fn translate(value: &str, dialect: Dialect, is_ike: bool) -> String {
    let (list, strict) = match value.trim().strip_suffix('!') {
        Some(list) => (list, true),
        None => (value.trim(), dialect == Dialect::Libreswan),
    };
    let mut proposals: Vec<String> = list
        .split(',')
        .map(str::trim)
        .filter(|proposal| !proposal.is_empty())
        .map(|proposal| match dialect {
            Dialect::Strongswan => proposal.to_lowercase(),
            Dialect::Libreswan => libreswan(&proposal.to_lowercase(), is_ike),
        })
        .collect();
    if !strict {
        proposals.push("default".to_owned());
    }
    proposals.join(", ")
}

/// Does any of the proposals name a key exchange?
pub(super) fn key_exchanges(proposals: &str) -> Vec<&str> {
    let is_ke =
        |word: &&str| ["modp", "ecp", "x25519", "curve", "mlkem"].iter().any(|start| word.starts_with(start));
    proposals.split([',', '-']).map(str::trim).filter(is_ke).collect()
}

/// `encryption-integrity-group` or `encryption-integrity;group`, each with alternatives between `+`.
fn libreswan(proposal: &str, is_ike: bool) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut aead = false;
    for alternatives in proposal.split([';', '-']) {
        for word in alternatives.split('+').map(str::trim).filter(|word| !word.is_empty()) {
            let word = word.replace('_', "");
            if let Some(found) = encryption(&word) {
                aead |= found
                    .iter()
                    .any(|name| name.contains("gcm") || name.contains("ccm") || name.contains("chacha"));
                words.extend(found);
            } else if let Some(group) = group(&word) {
                words.push(group);
            } else if word == "null" || word == "none" {
                // No integrity algorithm beside one that needs none.
            } else {
                let hash = match word.as_str() {
                    "sha" => "sha1".to_owned(),
                    "sha2" => "sha256".to_owned(),
                    _ => word
                        .strip_prefix("sha2")
                        .filter(|bits| bits.len() == 3)
                        .map_or_else(|| word.clone(), |bits| format!("sha{bits}")),
                };
                match (aead, is_ike) {
                    (true, true) => words.push(format!("prf{hash}")),
                    (true, false) => {}
                    (false, _) => words.push(hash),
                }
            }
        }
    }
    words.join("-")
}

/// Without a key size, 128 and 256 bits.
fn encryption(word: &str) -> Option<Vec<String>> {
    let (name, end) = [
        ("aesgcm16", "gcm16"),
        ("aesgcmc", "gcm16"),
        ("aesgcm", "gcm16"),
        ("aesccm", "ccm16"),
        ("aesctr", "ctr"),
        ("aescbc", ""),
        ("aes", ""),
    ]
    .into_iter()
    .find(|(start, _)| word.starts_with(start))
    .or_else(|| (word == "chacha20poly1305" || word == "3des").then_some((word, "")))?;
    let size = word.strip_prefix(name)?;
    if !name.starts_with("aes") {
        return Some(vec![name.to_owned()]);
    }
    match size {
        "" => Some(vec![format!("aes256{end}"), format!("aes128{end}")]),
        "128" | "192" | "256" => Some(vec![format!("aes{size}{end}")]),
        _ => None,
    }
}

fn group(word: &str) -> Option<String> {
    let name = match word {
        "dh14" => "modp2048",
        "dh15" => "modp3072",
        "dh16" => "modp4096",
        "dh17" => "modp6144",
        "dh18" => "modp8192",
        "dh19" => "ecp256",
        "dh20" => "ecp384",
        "dh21" => "ecp521",
        "dh31" | "x25519" | "curve25519" => "x25519",
        "dh5" => "modp1536",
        "dh2" => "modp1024",
        _ if word.starts_with("modp") || word.starts_with("ecp") || word.starts_with("dh") => word,
        _ => return None,
    };
    Some(name.to_owned())
}
