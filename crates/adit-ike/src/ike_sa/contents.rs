//! The payloads of one message, sorted by kind. Order is free in IKEv2 (RFC 7296 2.5); repetition is not.

use adit_wire::ikev2::{
    Authentication, Certificate, CertificateRequest, Delete, Identification, KeyExchange, Nonce, Notify,
    NotifyType, Payload, PayloadType, ProtocolId, SecurityAssociation, TrafficSelectors,
};

/// What a message says. Payloads that nobody here needs are left out.
#[derive(Debug, Default)]
pub(crate) struct Contents<'a> {
    pub(crate) sa: Option<&'a SecurityAssociation>,
    pub(crate) ke: Option<&'a KeyExchange>,
    pub(crate) nonce: Option<&'a Nonce>,
    pub(crate) id_initiator: Option<&'a Identification>,
    pub(crate) id_responder: Option<&'a Identification>,
    pub(crate) auth: Option<&'a Authentication>,
    pub(crate) certificates: Vec<&'a Certificate>,
    pub(crate) certificate_requests: Vec<&'a CertificateRequest>,
    pub(crate) ts_initiator: Option<&'a TrafficSelectors>,
    pub(crate) ts_responder: Option<&'a TrafficSelectors>,
    pub(crate) notifies: Vec<&'a Notify>,
    pub(crate) deletes: Vec<&'a Delete>,
}

/// Why a message as a whole must be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// UNSUPPORTED_CRITICAL_PAYLOAD with this type (RFC 7296 2.5).
    Critical(PayloadType),
    /// INVALID_SYNTAX: a payload that can be there once is there twice.
    Twice(PayloadType),
}

impl Refused {
    pub(crate) fn notify(self) -> Notify {
        match self {
            Self::Critical(payload_type) => {
                Notify::new(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![payload_type.0])
            }
            Self::Twice(_) => Notify::new(NotifyType::INVALID_SYNTAX, Vec::new()),
        }
    }
}

impl<'a> Contents<'a> {
    pub(crate) fn read(payloads: &'a [Payload]) -> Result<Self, Refused> {
        let mut contents = Self::default();
        // A critical payload we do not know refuses the message before anything else in it does.
        for payload in payloads {
            if let Payload::Unknown(unknown) = payload
                && unknown.critical
            {
                return Err(Refused::Critical(unknown.payload_type));
            }
        }
        for payload in payloads {
            let first = match payload {
                Payload::SecurityAssociation(p) => contents.sa.replace(p).is_none(),
                Payload::KeyExchange(p) => contents.ke.replace(p).is_none(),
                Payload::Nonce(p) => contents.nonce.replace(p).is_none(),
                Payload::IdInitiator(p) => contents.id_initiator.replace(p).is_none(),
                Payload::IdResponder(p) => contents.id_responder.replace(p).is_none(),
                Payload::Authentication(p) => contents.auth.replace(p).is_none(),
                Payload::TrafficSelectorsInitiator(p) => contents.ts_initiator.replace(p).is_none(),
                Payload::TrafficSelectorsResponder(p) => contents.ts_responder.replace(p).is_none(),
                Payload::Certificate(p) => {
                    contents.certificates.push(p);
                    true
                }
                Payload::CertificateRequest(p) => {
                    contents.certificate_requests.push(p);
                    true
                }
                Payload::Notify(p) => {
                    contents.notifies.push(p);
                    true
                }
                Payload::Delete(p) => {
                    contents.deletes.push(p);
                    true
                }
                _ => true,
            };
            if !first {
                return Err(Refused::Twice(payload.payload_type()));
            }
        }
        Ok(contents)
    }

    pub(crate) fn notify(&self, notify_type: NotifyType) -> Option<&'a Notify> {
        self.notifies.iter().find(|n| n.notify_type == notify_type).copied()
    }

    pub(crate) fn has(&self, notify_type: NotifyType) -> bool {
        self.notify(notify_type).is_some()
    }

    /// Is the IKE SA to be deleted (RFC 7296 1.4.1)?
    pub(crate) fn deletes_ike(&self) -> bool {
        self.deletes.iter().any(|d| d.protocol == ProtocolId::IKE)
    }

    /// The first notify that reports an error.
    pub(crate) fn error(&self) -> Option<&'a Notify> {
        self.notifies.iter().find(|n| n.notify_type.is_error()).copied()
    }
}
