//! An initiator made by hand, so that it can do what no gateway does.

use super::*;

/// The proposal of a gateway made by `sides`.
pub(super) const PROPOSAL: &str = "aes256gcm16-prfsha384-x25519";

pub(super) fn hashes(hashes: &[HashId]) -> Notify {
    let data = hashes.iter().flat_map(|hash| hash.0.to_be_bytes()).collect();
    Notify::new(NotifyType::SIGNATURE_HASH_ALGORITHMS, data)
}

pub(super) const ALL_HASHES: [HashId; 4] =
    [HashId::SHA2_256, HashId::SHA2_384, HashId::SHA2_512, HashId::IDENTITY];

pub(super) fn cert(data: &[u8]) -> Payload {
    Payload::Certificate(CertificatePayload { encoding: CertEncoding::X509_SIGNATURE, data: data.to_vec() })
}

pub(super) fn request_of(authorities: &[u8]) -> Payload {
    let encoding = CertEncoding::X509_SIGNATURE;
    Payload::CertificateRequest(CertificateRequest { encoding, authorities: authorities.to_vec() })
}

/// `AlgorithmIdentifier` and signature (RFC 7427 3).
pub(super) fn digital_signature(scheme: SignatureScheme, signature: &[u8]) -> Authentication {
    let identifier = scheme.algorithm_identifier().unwrap();
    let data = [&[identifier.len() as u8], &identifier[..], signature].concat();
    Authentication { method: AuthMethod::DIGITAL_SIGNATURE, data }
}

/// An initiator made by hand that is `a.example` by a certificate.
pub(super) struct Stranger {
    pub(super) hand: Hand,
    pub(super) holder: Holder,
    pub(super) scheme: SignatureScheme,
}

impl Stranger {
    pub(super) fn new(kind: Kind, notifies: &[Notify]) -> Self {
        let ca = Ca::root("Root", Kind::P256);
        let holder = ca.host("a.example", kind);
        Self::of(&ca, holder, kind, notifies)
    }

    /// The same with a certificate that there is already.
    pub(super) fn of(ca: &Ca, holder: Holder, kind: Kind, notifies: &[Notify]) -> Self {
        let (_, mut b) = sides();
        equip(&mut b, &ca.host("b.example", kind), &[ca]);
        let hand = Hand::with(b, PROPOSAL, notifies).ok().expect("IKE_SA_INIT is accepted");
        let scheme = Constraints::default().schemes(holder.key.kind())[0];
        Self { hand, holder, scheme }
    }

    pub(super) fn id() -> Identification {
        "a.example".parse::<Identity>().unwrap().to_wire()
    }

    /// A request that is right, and asks for a certificate.
    pub(super) fn request(&self) -> Vec<Payload> {
        let signature = self.holder.key.sign(self.scheme, &self.octets()).unwrap();
        self.request_with(digital_signature(self.scheme, &signature))
    }

    pub(super) fn octets(&self) -> Vec<u8> {
        self.hand.octets(0, &Self::id().body())
    }

    pub(super) fn request_with(&self, auth: Authentication) -> Vec<Payload> {
        let mut payloads = self.hand.auth_request();
        payloads[1] = Payload::Authentication(auth);
        payloads.insert(1, cert(self.holder.certificate.der()));
        payloads.insert(2, request_of(&[0; 20]));
        payloads
    }

    /// The AUTH payload of the answer, if it proves that `b.example` holds the key of the certificate that it sends.
    pub(super) fn accepted(&mut self, request: &[Payload]) -> Authentication {
        let id = "b.example".parse::<Identity>().unwrap().to_wire();
        let octets = self.hand.octets(1, &id.body());
        let answer = self.hand.exchange(ExchangeType::IKE_AUTH, request).expect("answered");
        let auth = answer
            .iter()
            .find_map(|p| if let Payload::Authentication(a) = p { Some(a.clone()) } else { None });
        let auth = auth.unwrap_or_else(|| panic!("{}", self.hand.pair.b.failure().message));
        let sent = certificates(&answer);
        let key = Certificate::from_der(&sent[0]).unwrap();
        let key = adit_crypto::PublicKey::from_spki(key.spki()).unwrap();
        let (scheme, signature) = match auth.method {
            AuthMethod::DIGITAL_SIGNATURE => {
                let (identifier, signature) = auth.data[1..].split_at(usize::from(auth.data[0]));
                (SignatureScheme::from_algorithm_identifier(identifier).unwrap(), signature)
            }
            AuthMethod::RSA_SIGNATURE => (SignatureScheme::RsaPkcs1(HashId::SHA1), &auth.data[..]),
            AuthMethod::ECDSA_256 => (SignatureScheme::EcdsaFixed(HashId::SHA2_256), &auth.data[..]),
            AuthMethod::ECDSA_384 => (SignatureScheme::EcdsaFixed(HashId::SHA2_384), &auth.data[..]),
            AuthMethod::ECDSA_521 => (SignatureScheme::EcdsaFixed(HashId::SHA2_512), &auth.data[..]),
            other => panic!("{other}"),
        };
        key.verify(scheme, &octets, signature).unwrap();
        assert_eq!(self.hand.pair.b.installed.len(), 1);
        auth
    }

    /// It is refused for this reason, and hears nothing but the one notify.
    pub(super) fn refused(mut self, request: &[Payload], code: OutcomeCode, notify: NotifyType) -> String {
        let answer = self.hand.exchange(ExchangeType::IKE_AUTH, request).expect("answered");
        let [Payload::Notify(said)] = &answer[..] else { panic!("{answer:?}") };
        let pair = &mut self.hand.pair;
        let failure = pair.b.failure();
        assert_eq!((said.notify_type, failure.code), (notify, code), "{}", failure.message);
        let message = failure.message.clone();
        assert!(pair.b.installed.is_empty());
        pair.run(Duration::from_secs(60));
        assert_eq!(pair.b.gateway.ike_sas().count(), 0);
        message
    }
}
