//! The IANA registries "Internet Key Exchange Version 2 (IKEv2) Parameters".
//!
//! Every number is a newtype that keeps values nobody has named yet. `Display` and `Debug` print the name by
//! which operators know it (transforms as strongSwan spells them, notifies as the RFCs do), or `TYPE(nn)`.

use std::fmt;

macro_rules! registry {
    ($(#[$doc:meta])* $name:ident($int:ty) { $($constant:ident = $value:literal, $text:literal, $source:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $int);

        impl $name {
            $(
                #[doc = concat!("`", $text, "` (", $source, ").")]
                pub const $constant: Self = Self($value);
            )*

            /// The registered name, if the number is known here.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($text),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.pad(name),
                    None => f.pad(&format!(concat!(stringify!($name), "({})"), self.0)),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

registry! {
    /// What a message is for (RFC 7296 3.1).
    ExchangeType(u8) {
        IKE_SA_INIT = 34, "IKE_SA_INIT", "RFC 7296";
        IKE_AUTH = 35, "IKE_AUTH", "RFC 7296";
        CREATE_CHILD_SA = 36, "CREATE_CHILD_SA", "RFC 7296";
        INFORMATIONAL = 37, "INFORMATIONAL", "RFC 7296";
        IKE_SESSION_RESUME = 38, "IKE_SESSION_RESUME", "RFC 5723";
        GSA_AUTH = 39, "GSA_AUTH", "RFC 9838";
        GSA_REGISTRATION = 40, "GSA_REGISTRATION", "RFC 9838";
        GSA_REKEY = 41, "GSA_REKEY", "RFC 9838";
        IKE_INTERMEDIATE = 43, "IKE_INTERMEDIATE", "RFC 9242";
        IKE_FOLLOWUP_KE = 44, "IKE_FOLLOWUP_KE", "RFC 9370";
    }
}

registry! {
    /// Kind of a payload (RFC 7296 3.2).
    PayloadType(u8) {
        NONE = 0, "NONE", "RFC 7296";
        SA = 33, "SA", "RFC 7296";
        KE = 34, "KE", "RFC 7296";
        IDI = 35, "IDi", "RFC 7296";
        IDR = 36, "IDr", "RFC 7296";
        CERT = 37, "CERT", "RFC 7296";
        CERTREQ = 38, "CERTREQ", "RFC 7296";
        AUTH = 39, "AUTH", "RFC 7296";
        NONCE = 40, "NONCE", "RFC 7296";
        NOTIFY = 41, "NOTIFY", "RFC 7296";
        DELETE = 42, "DELETE", "RFC 7296";
        VENDOR = 43, "VENDOR", "RFC 7296";
        TSI = 44, "TSi", "RFC 7296";
        TSR = 45, "TSr", "RFC 7296";
        SK = 46, "SK", "RFC 7296";
        CP = 47, "CP", "RFC 7296";
        EAP = 48, "EAP", "RFC 7296";
        GSPM = 49, "GSPM", "RFC 6467";
        SKF = 53, "SKF", "RFC 7383";
        PS = 54, "PS", "RFC 8019";
    }
}

registry! {
    /// What an SPI belongs to (RFC 7296 3.3.1).
    ProtocolId(u8) {
        NONE = 0, "NONE", "RFC 7296 3.10";
        IKE = 1, "IKE", "RFC 7296";
        AH = 2, "AH", "RFC 7296";
        ESP = 3, "ESP", "RFC 7296";
    }
}

registry! {
    /// What a transform is for (RFC 7296 3.3.2).
    TransformType(u8) {
        ENCR = 1, "ENCR", "RFC 7296";
        PRF = 2, "PRF", "RFC 7296";
        INTEG = 3, "INTEG", "RFC 7296";
        KE = 4, "KE", "RFC 7296, RFC 9370";
        ESN = 5, "ESN", "RFC 7296, RFC 9827";
        ADDKE1 = 6, "ADDKE1", "RFC 9370";
        ADDKE2 = 7, "ADDKE2", "RFC 9370";
        ADDKE3 = 8, "ADDKE3", "RFC 9370";
        ADDKE4 = 9, "ADDKE4", "RFC 9370";
        ADDKE5 = 10, "ADDKE5", "RFC 9370";
        ADDKE6 = 11, "ADDKE6", "RFC 9370";
        ADDKE7 = 12, "ADDKE7", "RFC 9370";
    }
}

impl TransformType {
    /// ADDKE1 to ADDKE7: an additional key exchange (RFC 9370 2.2.1).
    #[must_use]
    pub const fn is_additional_ke(self) -> bool {
        self.0 >= Self::ADDKE1.0 && self.0 <= Self::ADDKE7.0
    }
}

registry! {
    /// Encryption algorithm, transform type 1.
    EncrId(u16) {
        DES_IV64 = 1, "DES_IV64", "RFC 7296";
        DES = 2, "DES_CBC", "RFC 2405";
        DES3 = 3, "3DES_CBC", "RFC 2451";
        RC5 = 4, "RC5_CBC", "RFC 2451";
        IDEA = 5, "IDEA_CBC", "RFC 2451";
        CAST = 6, "CAST_CBC", "RFC 2451";
        BLOWFISH = 7, "BLOWFISH_CBC", "RFC 2451";
        IDEA3 = 8, "3IDEA", "RFC 7296";
        DES_IV32 = 9, "DES_IV32", "RFC 7296";
        NULL = 11, "NULL", "RFC 2410";
        AES_CBC = 12, "AES_CBC", "RFC 3602";
        AES_CTR = 13, "AES_CTR", "RFC 5930";
        AES_CCM_8 = 14, "AES_CCM_8", "RFC 4309";
        AES_CCM_12 = 15, "AES_CCM_12", "RFC 4309";
        AES_CCM_16 = 16, "AES_CCM_16", "RFC 4309";
        AES_GCM_8 = 18, "AES_GCM_8", "RFC 4106";
        AES_GCM_12 = 19, "AES_GCM_12", "RFC 4106";
        AES_GCM_16 = 20, "AES_GCM_16", "RFC 4106";
        NULL_AUTH_AES_GMAC = 21, "NULL_AES_GMAC", "RFC 4543";
        CAMELLIA_CBC = 23, "CAMELLIA_CBC", "RFC 5529";
        CAMELLIA_CTR = 24, "CAMELLIA_CTR", "RFC 5529";
        CAMELLIA_CCM_8 = 25, "CAMELLIA_CCM_8", "RFC 5529";
        CAMELLIA_CCM_12 = 26, "CAMELLIA_CCM_12", "RFC 5529";
        CAMELLIA_CCM_16 = 27, "CAMELLIA_CCM_16", "RFC 5529";
        CHACHA20_POLY1305 = 28, "CHACHA20_POLY1305", "RFC 7634";
        AES_CCM_8_IIV = 29, "AES_CCM_8_IIV", "RFC 8750";
        AES_GCM_16_IIV = 30, "AES_GCM_16_IIV", "RFC 8750";
        CHACHA20_POLY1305_IIV = 31, "CHACHA20_POLY1305_IIV", "RFC 8750";
        KUZNYECHIK_MGM_KTREE = 32, "KUZNYECHIK_MGM_KTREE", "RFC 9227";
        MAGMA_MGM_KTREE = 33, "MAGMA_MGM_KTREE", "RFC 9227";
        KUZNYECHIK_MGM_MAC_KTREE = 34, "KUZNYECHIK_MGM_MAC_KTREE", "RFC 9227";
        MAGMA_MGM_MAC_KTREE = 35, "MAGMA_MGM_MAC_KTREE", "RFC 9227";
    }
}

registry! {
    /// Pseudorandom function, transform type 2.
    PrfId(u16) {
        HMAC_MD5 = 1, "PRF_HMAC_MD5", "RFC 2104";
        HMAC_SHA1 = 2, "PRF_HMAC_SHA1", "RFC 2104";
        HMAC_TIGER = 3, "PRF_HMAC_TIGER", "RFC 7296";
        AES128_XCBC = 4, "PRF_AES128_XCBC", "RFC 4434";
        HMAC_SHA2_256 = 5, "PRF_HMAC_SHA2_256", "RFC 4868";
        HMAC_SHA2_384 = 6, "PRF_HMAC_SHA2_384", "RFC 4868";
        HMAC_SHA2_512 = 7, "PRF_HMAC_SHA2_512", "RFC 4868";
        AES128_CMAC = 8, "PRF_AES128_CMAC", "RFC 4615";
        HMAC_STREEBOG_512 = 9, "PRF_HMAC_STREEBOG_512", "RFC 9385";
    }
}

registry! {
    /// Integrity algorithm, transform type 3.
    IntegId(u16) {
        NONE = 0, "NONE", "RFC 7296";
        HMAC_MD5_96 = 1, "HMAC_MD5_96", "RFC 2403";
        HMAC_SHA1_96 = 2, "HMAC_SHA1_96", "RFC 2404";
        DES_MAC = 3, "DES_MAC", "RFC 7296";
        KPDK_MD5 = 4, "KPDK_MD5", "RFC 7296";
        AES_XCBC_96 = 5, "AES_XCBC_96", "RFC 3566";
        HMAC_MD5_128 = 6, "HMAC_MD5_128", "RFC 4595";
        HMAC_SHA1_160 = 7, "HMAC_SHA1_160", "RFC 4595";
        AES_CMAC_96 = 8, "AES_CMAC_96", "RFC 4494";
        AES_128_GMAC = 9, "AES_128_GMAC", "RFC 4543";
        AES_192_GMAC = 10, "AES_192_GMAC", "RFC 4543";
        AES_256_GMAC = 11, "AES_256_GMAC", "RFC 4543";
        HMAC_SHA2_256_128 = 12, "HMAC_SHA2_256_128", "RFC 4868";
        HMAC_SHA2_384_192 = 13, "HMAC_SHA2_384_192", "RFC 4868";
        HMAC_SHA2_512_256 = 14, "HMAC_SHA2_512_256", "RFC 4868";
    }
}

registry! {
    /// Key exchange method (formerly Diffie-Hellman group), transform types 4 and 6 to 12 (RFC 9370).
    KeId(u16) {
        NONE = 0, "NONE", "RFC 7296";
        MODP_768 = 1, "MODP_768", "RFC 7296";
        MODP_1024 = 2, "MODP_1024", "RFC 7296";
        MODP_1536 = 5, "MODP_1536", "RFC 3526";
        MODP_2048 = 14, "MODP_2048", "RFC 3526";
        MODP_3072 = 15, "MODP_3072", "RFC 3526";
        MODP_4096 = 16, "MODP_4096", "RFC 3526";
        MODP_6144 = 17, "MODP_6144", "RFC 3526";
        MODP_8192 = 18, "MODP_8192", "RFC 3526";
        ECP_256 = 19, "ECP_256", "RFC 5903";
        ECP_384 = 20, "ECP_384", "RFC 5903";
        ECP_521 = 21, "ECP_521", "RFC 5903";
        MODP_1024_160 = 22, "MODP_1024_160", "RFC 5114";
        MODP_2048_224 = 23, "MODP_2048_224", "RFC 5114";
        MODP_2048_256 = 24, "MODP_2048_256", "RFC 5114";
        ECP_192 = 25, "ECP_192", "RFC 5114";
        ECP_224 = 26, "ECP_224", "RFC 5114";
        ECP_224_BP = 27, "ECP_224_BP", "RFC 6954";
        ECP_256_BP = 28, "ECP_256_BP", "RFC 6954";
        ECP_384_BP = 29, "ECP_384_BP", "RFC 6954";
        ECP_512_BP = 30, "ECP_512_BP", "RFC 6954";
        CURVE_25519 = 31, "CURVE_25519", "RFC 8031";
        CURVE_448 = 32, "CURVE_448", "RFC 8031";
        GOST3410_2012_256 = 33, "GOST3410_2012_256", "RFC 9385";
        GOST3410_2012_512 = 34, "GOST3410_2012_512", "RFC 9385";
        ML_KEM_512 = 35, "ML_KEM_512", "draft-ietf-ipsecme-ikev2-mlkem";
        ML_KEM_768 = 36, "ML_KEM_768", "draft-ietf-ipsecme-ikev2-mlkem";
        ML_KEM_1024 = 37, "ML_KEM_1024", "draft-ietf-ipsecme-ikev2-mlkem";
    }
}

impl KeId {
    /// Is it safe from a quantum computer, as far as is known?
    #[must_use]
    pub const fn is_post_quantum(self) -> bool {
        matches!(self, Self::ML_KEM_512 | Self::ML_KEM_768 | Self::ML_KEM_1024)
    }
}

registry! {
    /// Extended sequence numbers, transform type 5.
    EsnId(u16) {
        NO_ESN = 0, "NO_EXT_SEQ", "RFC 7296";
        ESN = 1, "EXT_SEQ", "RFC 7296";
    }
}

registry! {
    /// What a Notify payload says (RFC 7296 3.10.1).
    NotifyType(u16) {
        UNSUPPORTED_CRITICAL_PAYLOAD = 1, "UNSUPPORTED_CRITICAL_PAYLOAD", "RFC 7296";
        INVALID_IKE_SPI = 4, "INVALID_IKE_SPI", "RFC 7296";
        INVALID_MAJOR_VERSION = 5, "INVALID_MAJOR_VERSION", "RFC 7296";
        INVALID_SYNTAX = 7, "INVALID_SYNTAX", "RFC 7296";
        INVALID_MESSAGE_ID = 9, "INVALID_MESSAGE_ID", "RFC 7296";
        INVALID_SPI = 11, "INVALID_SPI", "RFC 7296";
        NO_PROPOSAL_CHOSEN = 14, "NO_PROPOSAL_CHOSEN", "RFC 7296";
        INVALID_KE_PAYLOAD = 17, "INVALID_KE_PAYLOAD", "RFC 7296";
        AUTHENTICATION_FAILED = 24, "AUTHENTICATION_FAILED", "RFC 7296";
        SINGLE_PAIR_REQUIRED = 34, "SINGLE_PAIR_REQUIRED", "RFC 7296";
        NO_ADDITIONAL_SAS = 35, "NO_ADDITIONAL_SAS", "RFC 7296";
        INTERNAL_ADDRESS_FAILURE = 36, "INTERNAL_ADDRESS_FAILURE", "RFC 7296";
        FAILED_CP_REQUIRED = 37, "FAILED_CP_REQUIRED", "RFC 7296";
        TS_UNACCEPTABLE = 38, "TS_UNACCEPTABLE", "RFC 7296";
        INVALID_SELECTORS = 39, "INVALID_SELECTORS", "RFC 7296";
        UNACCEPTABLE_ADDRESSES = 40, "UNACCEPTABLE_ADDRESSES", "RFC 4555";
        UNEXPECTED_NAT_DETECTED = 41, "UNEXPECTED_NAT_DETECTED", "RFC 4555";
        USE_ASSIGNED_HOA = 42, "USE_ASSIGNED_HoA", "RFC 5026";
        TEMPORARY_FAILURE = 43, "TEMPORARY_FAILURE", "RFC 7296";
        CHILD_SA_NOT_FOUND = 44, "CHILD_SA_NOT_FOUND", "RFC 7296";
        INVALID_GROUP_ID = 45, "INVALID_GROUP_ID", "RFC 9838";
        AUTHORIZATION_FAILED = 46, "AUTHORIZATION_FAILED", "RFC 9838";
        STATE_NOT_FOUND = 47, "STATE_NOT_FOUND", "RFC 9370";
        TS_MAX_QUEUE = 48, "TS_MAX_QUEUE", "RFC 9611";
        INITIAL_CONTACT = 16384, "INITIAL_CONTACT", "RFC 7296";
        SET_WINDOW_SIZE = 16385, "SET_WINDOW_SIZE", "RFC 7296";
        ADDITIONAL_TS_POSSIBLE = 16386, "ADDITIONAL_TS_POSSIBLE", "RFC 7296";
        IPCOMP_SUPPORTED = 16387, "IPCOMP_SUPPORTED", "RFC 7296";
        NAT_DETECTION_SOURCE_IP = 16388, "NAT_DETECTION_SOURCE_IP", "RFC 7296";
        NAT_DETECTION_DESTINATION_IP = 16389, "NAT_DETECTION_DESTINATION_IP", "RFC 7296";
        COOKIE = 16390, "COOKIE", "RFC 7296";
        USE_TRANSPORT_MODE = 16391, "USE_TRANSPORT_MODE", "RFC 7296";
        HTTP_CERT_LOOKUP_SUPPORTED = 16392, "HTTP_CERT_LOOKUP_SUPPORTED", "RFC 7296";
        REKEY_SA = 16393, "REKEY_SA", "RFC 7296";
        ESP_TFC_PADDING_NOT_SUPPORTED = 16394, "ESP_TFC_PADDING_NOT_SUPPORTED", "RFC 7296";
        NON_FIRST_FRAGMENTS_ALSO = 16395, "NON_FIRST_FRAGMENTS_ALSO", "RFC 7296";
        MOBIKE_SUPPORTED = 16396, "MOBIKE_SUPPORTED", "RFC 4555";
        ADDITIONAL_IP4_ADDRESS = 16397, "ADDITIONAL_IP4_ADDRESS", "RFC 4555";
        ADDITIONAL_IP6_ADDRESS = 16398, "ADDITIONAL_IP6_ADDRESS", "RFC 4555";
        NO_ADDITIONAL_ADDRESSES = 16399, "NO_ADDITIONAL_ADDRESSES", "RFC 4555";
        UPDATE_SA_ADDRESSES = 16400, "UPDATE_SA_ADDRESSES", "RFC 4555";
        COOKIE2 = 16401, "COOKIE2", "RFC 4555";
        NO_NATS_ALLOWED = 16402, "NO_NATS_ALLOWED", "RFC 4555";
        AUTH_LIFETIME = 16403, "AUTH_LIFETIME", "RFC 4478";
        MULTIPLE_AUTH_SUPPORTED = 16404, "MULTIPLE_AUTH_SUPPORTED", "RFC 4739";
        ANOTHER_AUTH_FOLLOWS = 16405, "ANOTHER_AUTH_FOLLOWS", "RFC 4739";
        REDIRECT_SUPPORTED = 16406, "REDIRECT_SUPPORTED", "RFC 5685";
        REDIRECT = 16407, "REDIRECT", "RFC 5685";
        REDIRECTED_FROM = 16408, "REDIRECTED_FROM", "RFC 5685";
        TICKET_LT_OPAQUE = 16409, "TICKET_LT_OPAQUE", "RFC 5723";
        TICKET_REQUEST = 16410, "TICKET_REQUEST", "RFC 5723";
        TICKET_ACK = 16411, "TICKET_ACK", "RFC 5723";
        TICKET_NACK = 16412, "TICKET_NACK", "RFC 5723";
        TICKET_OPAQUE = 16413, "TICKET_OPAQUE", "RFC 5723";
        LINK_ID = 16414, "LINK_ID", "RFC 5739";
        USE_WESP_MODE = 16415, "USE_WESP_MODE", "RFC 5840";
        ROHC_SUPPORTED = 16416, "ROHC_SUPPORTED", "RFC 5857";
        EAP_ONLY_AUTHENTICATION = 16417, "EAP_ONLY_AUTHENTICATION", "RFC 5998";
        CHILDLESS_IKEV2_SUPPORTED = 16418, "CHILDLESS_IKEV2_SUPPORTED", "RFC 6023";
        QUICK_CRASH_DETECTION = 16419, "QUICK_CRASH_DETECTION", "RFC 6290";
        IKEV2_MESSAGE_ID_SYNC_SUPPORTED = 16420, "IKEV2_MESSAGE_ID_SYNC_SUPPORTED", "RFC 6311";
        IPSEC_REPLAY_COUNTER_SYNC_SUPPORTED = 16421, "IPSEC_REPLAY_COUNTER_SYNC_SUPPORTED", "RFC 6311";
        IKEV2_MESSAGE_ID_SYNC = 16422, "IKEV2_MESSAGE_ID_SYNC", "RFC 6311";
        IPSEC_REPLAY_COUNTER_SYNC = 16423, "IPSEC_REPLAY_COUNTER_SYNC", "RFC 6311";
        SECURE_PASSWORD_METHODS = 16424, "SECURE_PASSWORD_METHODS", "RFC 6467";
        PSK_PERSIST = 16425, "PSK_PERSIST", "RFC 6631";
        PSK_CONFIRM = 16426, "PSK_CONFIRM", "RFC 6631";
        ERX_SUPPORTED = 16427, "ERX_SUPPORTED", "RFC 6867";
        IFOM_CAPABILITY = 16428, "IFOM_CAPABILITY", "3GPP TS 24.303";
        GROUP_SENDER = 16429, "GROUP_SENDER", "RFC 9838";
        IKEV2_FRAGMENTATION_SUPPORTED = 16430, "IKEV2_FRAGMENTATION_SUPPORTED", "RFC 7383";
        SIGNATURE_HASH_ALGORITHMS = 16431, "SIGNATURE_HASH_ALGORITHMS", "RFC 7427";
        CLONE_IKE_SA_SUPPORTED = 16432, "CLONE_IKE_SA_SUPPORTED", "RFC 7791";
        CLONE_IKE_SA = 16433, "CLONE_IKE_SA", "RFC 7791";
        PUZZLE = 16434, "PUZZLE", "RFC 8019";
        USE_PPK = 16435, "USE_PPK", "RFC 8784";
        PPK_IDENTITY = 16436, "PPK_IDENTITY", "RFC 8784";
        NO_PPK_AUTH = 16437, "NO_PPK_AUTH", "RFC 8784";
        INTERMEDIATE_EXCHANGE_SUPPORTED = 16438, "INTERMEDIATE_EXCHANGE_SUPPORTED", "RFC 9242";
        IP4_ALLOWED = 16439, "IP4_ALLOWED", "RFC 8983";
        IP6_ALLOWED = 16440, "IP6_ALLOWED", "RFC 8983";
        ADDITIONAL_KEY_EXCHANGE = 16441, "ADDITIONAL_KEY_EXCHANGE", "RFC 9370";
        USE_AGGFRAG = 16442, "USE_AGGFRAG", "RFC 9347";
        SUPPORTED_AUTH_METHODS = 16443, "SUPPORTED_AUTH_METHODS", "RFC 9593";
        SA_RESOURCE_INFO = 16444, "SA_RESOURCE_INFO", "RFC 9611";
        USE_PPK_INT = 16445, "USE_PPK_INT", "RFC 9867";
        PPK_IDENTITY_KEY = 16446, "PPK_IDENTITY_KEY", "RFC 9867";
        IKE_SA_INIT_FULL_TRANSCRIPT_AUTH = 16447, "IKE_SA_INIT_FULL_TRANSCRIPT_AUTH", "draft-ietf-ipsecme-ikev2-downgrade-prevention";
    }
}

impl NotifyType {
    /// Does it report an error? Types below 16384 do, known or not (RFC 7296 3.10.1).
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 >= 1 && self.0 <= 16383
    }
}

registry! {
    /// Kind of an identity (RFC 7296 3.5).
    IdType(u8) {
        IPV4_ADDR = 1, "ID_IPV4_ADDR", "RFC 7296";
        FQDN = 2, "ID_FQDN", "RFC 7296";
        RFC822_ADDR = 3, "ID_RFC822_ADDR", "RFC 7296";
        IPV6_ADDR = 5, "ID_IPV6_ADDR", "RFC 7296";
        DER_ASN1_DN = 9, "ID_DER_ASN1_DN", "RFC 7296";
        DER_ASN1_GN = 10, "ID_DER_ASN1_GN", "RFC 7296";
        KEY_ID = 11, "ID_KEY_ID", "RFC 7296";
        FC_NAME = 12, "ID_FC_NAME", "RFC 4595";
        NULL = 13, "ID_NULL", "RFC 7619";
    }
}

registry! {
    /// How an AUTH payload was made (RFC 7296 3.8).
    AuthMethod(u8) {
        RSA_SIGNATURE = 1, "RSA_SIGNATURE", "RFC 7296";
        SHARED_KEY = 2, "SHARED_KEY", "RFC 7296";
        DSS_SIGNATURE = 3, "DSS_SIGNATURE", "RFC 7296";
        ECDSA_256 = 9, "ECDSA_256", "RFC 4754";
        ECDSA_384 = 10, "ECDSA_384", "RFC 4754";
        ECDSA_521 = 11, "ECDSA_521", "RFC 4754";
        GSPM = 12, "GSPM", "RFC 6467";
        NULL = 13, "NULL", "RFC 7619";
        DIGITAL_SIGNATURE = 14, "DIGITAL_SIGNATURE", "RFC 7427";
    }
}

registry! {
    /// A hash algorithm of signatures (RFC 7427 4).
    HashId(u16) {
        SHA1 = 1, "SHA1", "RFC 7427";
        SHA2_256 = 2, "SHA2_256", "RFC 7427";
        SHA2_384 = 3, "SHA2_384", "RFC 7427";
        SHA2_512 = 4, "SHA2_512", "RFC 7427";
        IDENTITY = 5, "IDENTITY", "RFC 8420";
    }
}

registry! {
    /// Kind of a traffic selector (RFC 7296 3.13.1).
    TsType(u8) {
        IPV4_ADDR_RANGE = 7, "TS_IPV4_ADDR_RANGE", "RFC 7296";
        IPV6_ADDR_RANGE = 8, "TS_IPV6_ADDR_RANGE", "RFC 7296";
        FC_ADDR_RANGE = 9, "TS_FC_ADDR_RANGE", "RFC 4595";
        SECLABEL = 10, "TS_SECLABEL", "RFC 9478";
    }
}

registry! {
    /// Encoding of a certificate (RFC 7296 3.6).
    CertEncoding(u8) {
        PKCS7_X509 = 1, "PKCS7_X509", "RFC 7296";
        PGP = 2, "PGP", "RFC 7296";
        DNS_SIGNED_KEY = 3, "DNS_SIGNED_KEY", "RFC 7296";
        X509_SIGNATURE = 4, "X509_SIGNATURE", "RFC 7296";
        KERBEROS_TOKEN = 6, "KERBEROS_TOKEN", "RFC 7296";
        CRL = 7, "CRL", "RFC 7296";
        ARL = 8, "ARL", "RFC 7296";
        SPKI = 9, "SPKI", "RFC 7296";
        X509_ATTRIBUTE = 10, "X509_ATTRIBUTE", "RFC 7296";
        HASH_AND_URL_X509 = 12, "HASH_AND_URL_X509", "RFC 7296";
        HASH_AND_URL_BUNDLE = 13, "HASH_AND_URL_BUNDLE", "RFC 7296";
        OCSP_CONTENT = 14, "OCSP_CONTENT", "RFC 4806";
        RAW_PUBLIC_KEY = 15, "RAW_PUBLIC_KEY", "RFC 7670";
    }
}

registry! {
    /// What a Configuration payload does (RFC 7296 3.15).
    CfgType(u8) {
        REQUEST = 1, "CFG_REQUEST", "RFC 7296";
        REPLY = 2, "CFG_REPLY", "RFC 7296";
        SET = 3, "CFG_SET", "RFC 7296";
        ACK = 4, "CFG_ACK", "RFC 7296";
    }
}

registry! {
    /// An attribute of a Configuration payload (RFC 7296 3.15.1).
    CfgAttributeType(u16) {
        INTERNAL_IP4_ADDRESS = 1, "INTERNAL_IP4_ADDRESS", "RFC 7296";
        INTERNAL_IP4_NETMASK = 2, "INTERNAL_IP4_NETMASK", "RFC 7296";
        INTERNAL_IP4_DNS = 3, "INTERNAL_IP4_DNS", "RFC 7296";
        INTERNAL_IP4_NBNS = 4, "INTERNAL_IP4_NBNS", "RFC 7296";
        INTERNAL_IP4_DHCP = 6, "INTERNAL_IP4_DHCP", "RFC 7296";
        APPLICATION_VERSION = 7, "APPLICATION_VERSION", "RFC 7296";
        INTERNAL_IP6_ADDRESS = 8, "INTERNAL_IP6_ADDRESS", "RFC 7296";
        INTERNAL_IP6_DNS = 10, "INTERNAL_IP6_DNS", "RFC 7296";
        INTERNAL_IP6_DHCP = 12, "INTERNAL_IP6_DHCP", "RFC 7296";
        INTERNAL_IP4_SUBNET = 13, "INTERNAL_IP4_SUBNET", "RFC 7296";
        SUPPORTED_ATTRIBUTES = 14, "SUPPORTED_ATTRIBUTES", "RFC 7296";
        INTERNAL_IP6_SUBNET = 15, "INTERNAL_IP6_SUBNET", "RFC 7296";
        MIP6_HOME_PREFIX = 16, "MIP6_HOME_PREFIX", "RFC 5026";
        INTERNAL_IP6_LINK = 17, "INTERNAL_IP6_LINK", "RFC 5739";
        INTERNAL_IP6_PREFIX = 18, "INTERNAL_IP6_PREFIX", "RFC 5739";
        HOME_AGENT_ADDRESS = 19, "HOME_AGENT_ADDRESS", "3GPP TS 24.302";
        P_CSCF_IP4_ADDRESS = 20, "P_CSCF_IP4_ADDRESS", "RFC 7651";
        P_CSCF_IP6_ADDRESS = 21, "P_CSCF_IP6_ADDRESS", "RFC 7651";
        FTT_KAT = 22, "FTT_KAT", "3GPP TS 24.302";
        EXTERNAL_SOURCE_IP4_NAT_INFO = 23, "EXTERNAL_SOURCE_IP4_NAT_INFO", "3GPP TS 29.139";
        TIMEOUT_PERIOD_FOR_LIVENESS_CHECK = 24, "TIMEOUT_PERIOD_FOR_LIVENESS_CHECK", "3GPP TS 24.302";
        INTERNAL_DNS_DOMAIN = 25, "INTERNAL_DNS_DOMAIN", "RFC 8598";
        INTERNAL_DNSSEC_TA = 26, "INTERNAL_DNSSEC_TA", "RFC 8598";
        ENCDNS_IP4 = 27, "ENCDNS_IP4", "RFC 9464";
        ENCDNS_IP6 = 28, "ENCDNS_IP6", "RFC 9464";
        ENCDNS_DIGEST_INFO = 29, "ENCDNS_DIGEST_INFO", "RFC 9464";
    }
}
