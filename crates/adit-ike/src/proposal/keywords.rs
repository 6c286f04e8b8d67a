//! The algorithm keywords of `swanctl.conf`. The first keyword of an algorithm is the one it is shown with.

use adit_wire::ikev2::{EncrId, EsnId, IntegId, KeId, PrfId, TransformType};

/// `keN_` before the keyword of a key exchange method makes it the N-th additional one (RFC 9370 2.2.1).
pub(super) const ADDITIONAL: &[(&str, TransformType)] = &[
    ("ke1_", TransformType::ADDKE1),
    ("ke2_", TransformType::ADDKE2),
    ("ke3_", TransformType::ADDKE3),
    ("ke4_", TransformType::ADDKE4),
    ("ke5_", TransformType::ADDKE5),
    ("ke6_", TransformType::ADDKE6),
    ("ke7_", TransformType::ADDKE7),
];

pub(super) struct Keyword {
    pub(super) name: &'static str,
    pub(super) transform_type: TransformType,
    pub(super) id: u16,
    pub(super) key_length: Option<u16>,
}

const fn encr(name: &'static str, id: EncrId, bits: u16) -> Keyword {
    let key_length = if bits == 0 { None } else { Some(bits) };
    Keyword { name, transform_type: TransformType::ENCR, id: id.0, key_length }
}

const fn prf(name: &'static str, id: PrfId) -> Keyword {
    Keyword { name, transform_type: TransformType::PRF, id: id.0, key_length: None }
}

const fn integ(name: &'static str, id: IntegId) -> Keyword {
    Keyword { name, transform_type: TransformType::INTEG, id: id.0, key_length: None }
}

const fn ke(name: &'static str, id: KeId) -> Keyword {
    Keyword { name, transform_type: TransformType::KE, id: id.0, key_length: None }
}

const fn esn(name: &'static str, id: EsnId) -> Keyword {
    Keyword { name, transform_type: TransformType::ESN, id: id.0, key_length: None }
}

/// Numbers without a name in `adit-wire` are of algorithms that no build of Adit has: they are listed so that a
/// configuration that names them is told "not supported" instead of "unknown".
pub(super) const KEYWORDS: &[Keyword] = &[
    encr("aes128gcm16", EncrId::AES_GCM_16, 128),
    encr("aes192gcm16", EncrId::AES_GCM_16, 192),
    encr("aes256gcm16", EncrId::AES_GCM_16, 256),
    encr("aes128gcm128", EncrId::AES_GCM_16, 128),
    encr("aes192gcm128", EncrId::AES_GCM_16, 192),
    encr("aes256gcm128", EncrId::AES_GCM_16, 256),
    encr("aes128gcm", EncrId::AES_GCM_16, 128),
    encr("aes192gcm", EncrId::AES_GCM_16, 192),
    encr("aes256gcm", EncrId::AES_GCM_16, 256),
    encr("aes128gcm12", EncrId::AES_GCM_12, 128),
    encr("aes192gcm12", EncrId::AES_GCM_12, 192),
    encr("aes256gcm12", EncrId::AES_GCM_12, 256),
    encr("aes128gcm96", EncrId::AES_GCM_12, 128),
    encr("aes192gcm96", EncrId::AES_GCM_12, 192),
    encr("aes256gcm96", EncrId::AES_GCM_12, 256),
    encr("aes128gcm8", EncrId::AES_GCM_8, 128),
    encr("aes192gcm8", EncrId::AES_GCM_8, 192),
    encr("aes256gcm8", EncrId::AES_GCM_8, 256),
    encr("aes128gcm64", EncrId::AES_GCM_8, 128),
    encr("aes192gcm64", EncrId::AES_GCM_8, 192),
    encr("aes256gcm64", EncrId::AES_GCM_8, 256),
    encr("aes128ccm16", EncrId::AES_CCM_16, 128),
    encr("aes192ccm16", EncrId::AES_CCM_16, 192),
    encr("aes256ccm16", EncrId::AES_CCM_16, 256),
    encr("aes128ccm128", EncrId::AES_CCM_16, 128),
    encr("aes192ccm128", EncrId::AES_CCM_16, 192),
    encr("aes256ccm128", EncrId::AES_CCM_16, 256),
    encr("aes128ccm12", EncrId::AES_CCM_12, 128),
    encr("aes192ccm12", EncrId::AES_CCM_12, 192),
    encr("aes256ccm12", EncrId::AES_CCM_12, 256),
    encr("aes128ccm96", EncrId::AES_CCM_12, 128),
    encr("aes192ccm96", EncrId::AES_CCM_12, 192),
    encr("aes256ccm96", EncrId::AES_CCM_12, 256),
    encr("aes128ccm8", EncrId::AES_CCM_8, 128),
    encr("aes192ccm8", EncrId::AES_CCM_8, 192),
    encr("aes256ccm8", EncrId::AES_CCM_8, 256),
    encr("aes128ccm64", EncrId::AES_CCM_8, 128),
    encr("aes192ccm64", EncrId::AES_CCM_8, 192),
    encr("aes256ccm64", EncrId::AES_CCM_8, 256),
    encr("chacha20poly1305", EncrId::CHACHA20_POLY1305, 0),
    encr("aes128", EncrId::AES_CBC, 128),
    encr("aes192", EncrId::AES_CBC, 192),
    encr("aes256", EncrId::AES_CBC, 256),
    encr("aes", EncrId::AES_CBC, 128),
    encr("aes128ctr", EncrId::AES_CTR, 128),
    encr("aes192ctr", EncrId::AES_CTR, 192),
    encr("aes256ctr", EncrId::AES_CTR, 256),
    encr("aes128gmac", EncrId::NULL_AUTH_AES_GMAC, 128),
    encr("aes192gmac", EncrId::NULL_AUTH_AES_GMAC, 192),
    encr("aes256gmac", EncrId::NULL_AUTH_AES_GMAC, 256),
    encr("null", EncrId::NULL, 0),
    encr("des", EncrId(2), 0),
    encr("3des", EncrId::DES3, 0),
    encr("cast128", EncrId(6), 128),
    encr("blowfish128", EncrId(7), 128),
    encr("blowfish192", EncrId(7), 192),
    encr("blowfish256", EncrId(7), 256),
    encr("blowfish", EncrId(7), 128),
    encr("camellia128", EncrId(23), 128),
    encr("camellia192", EncrId(23), 192),
    encr("camellia256", EncrId(23), 256),
    encr("camellia", EncrId(23), 128),
    encr("camellia128ctr", EncrId(24), 128),
    encr("camellia192ctr", EncrId(24), 192),
    encr("camellia256ctr", EncrId(24), 256),
    encr("camellia128ccm8", EncrId(25), 128),
    encr("camellia192ccm8", EncrId(25), 192),
    encr("camellia256ccm8", EncrId(25), 256),
    encr("camellia128ccm12", EncrId(26), 128),
    encr("camellia192ccm12", EncrId(26), 192),
    encr("camellia256ccm12", EncrId(26), 256),
    encr("camellia128ccm16", EncrId(27), 128),
    encr("camellia192ccm16", EncrId(27), 192),
    encr("camellia256ccm16", EncrId(27), 256),
    // strongSwan's private use numbers (RFC 7296 3.3.2: 1024 and above).
    encr("serpent128", EncrId(1064), 128),
    encr("serpent192", EncrId(1064), 192),
    encr("serpent256", EncrId(1064), 256),
    encr("serpent", EncrId(1064), 128),
    encr("twofish128", EncrId(1065), 128),
    encr("twofish192", EncrId(1065), 192),
    encr("twofish256", EncrId(1065), 256),
    encr("twofish", EncrId(1065), 128),
    integ("sha256", IntegId::HMAC_SHA2_256_128),
    integ("sha2_256", IntegId::HMAC_SHA2_256_128),
    integ("sha384", IntegId::HMAC_SHA2_384_192),
    integ("sha2_384", IntegId::HMAC_SHA2_384_192),
    integ("sha512", IntegId::HMAC_SHA2_512_256),
    integ("sha2_512", IntegId::HMAC_SHA2_512_256),
    integ("sha1", IntegId::HMAC_SHA1_96),
    integ("sha", IntegId::HMAC_SHA1_96),
    integ("sha1_160", IntegId(7)),
    integ("sha256_96", IntegId(1027)),
    integ("sha2_256_96", IntegId(1027)),
    integ("md5", IntegId::HMAC_MD5_96),
    integ("md5_128", IntegId(6)),
    integ("aesxcbc", IntegId::AES_XCBC_96),
    integ("aescmac", IntegId(8)),
    integ("camelliaxcbc", IntegId(1032)),
    prf("prfsha256", PrfId::HMAC_SHA2_256),
    prf("prfsha384", PrfId::HMAC_SHA2_384),
    prf("prfsha512", PrfId::HMAC_SHA2_512),
    prf("prfsha1", PrfId::HMAC_SHA1),
    prf("prfmd5", PrfId::HMAC_MD5),
    prf("prfaesxcbc", PrfId::AES128_XCBC),
    prf("prfaescmac", PrfId::AES128_CMAC),
    prf("prfcamelliaxcbc", PrfId(1054)),
    ke("x25519", KeId::CURVE_25519),
    ke("curve25519", KeId::CURVE_25519),
    ke("x448", KeId::CURVE_448),
    ke("curve448", KeId::CURVE_448),
    ke("ecp256", KeId::ECP_256),
    ke("ecp384", KeId::ECP_384),
    ke("ecp521", KeId::ECP_521),
    ke("ecp192", KeId(25)),
    ke("ecp224", KeId(26)),
    ke("ecp224bp", KeId(27)),
    ke("ecp256bp", KeId(28)),
    ke("ecp384bp", KeId(29)),
    ke("ecp512bp", KeId(30)),
    ke("modp2048", KeId::MODP_2048),
    ke("modp3072", KeId::MODP_3072),
    ke("modp4096", KeId::MODP_4096),
    ke("modp6144", KeId(17)),
    ke("modp8192", KeId(18)),
    ke("modp1536", KeId::MODP_1536),
    ke("modp1024", KeId::MODP_1024),
    ke("modp768", KeId::MODP_768),
    ke("modp1024s160", KeId(22)),
    ke("modp2048s224", KeId(23)),
    ke("modp2048s256", KeId(24)),
    ke("mlkem512", KeId::ML_KEM_512),
    ke("mlkem768", KeId::ML_KEM_768),
    ke("mlkem1024", KeId::ML_KEM_1024),
    ke("none", KeId::NONE),
    ke("modpnone", KeId::NONE),
    esn("noesn", EsnId::NO_ESN),
    esn("esn", EsnId::ESN),
];
