//! What a configuration says of certificates: who is trusted, with which keys we sign, and what each connection wants.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_cert::{Certificate, Crl, Requirements, Revocation};
use adit_crypto::{PrivateKey, Signer};
use adit_ike::config::{Configuration, Constraints, LocalAuth, RemoteAuth};
use adit_ike::identity::Identity;

use super::{Builder, Checked, Problem, Value};
use crate::config::shelf::{KEYS, Label, Object, X509, X509CA, X509CRL};
use crate::config::source::Span;
use crate::config::values::{Auth, Material};

/// Certificates that expire within this time are told of.
const SOON: Duration = Duration::from_secs(7 * 86_400);

/// How one side authenticates, and where that is written.
pub(super) struct Round {
    pub(super) auth: Auth,
    pub(super) id: Option<Value>,
    pub(super) span: Span,
    section: Checked,
}

impl Builder<'_> {
    /// Everything that is trusted or signed with, from sections and from the directories beside the file.
    pub(super) fn credentials(
        &mut self,
        mut secrets: Option<&mut Checked>,
        authorities: Vec<Checked>,
        into: &mut Configuration,
    ) {
        for (place, sections) in KEYS {
            let mut named = BTreeSet::new();
            for mut section in
                secrets.iter_mut().flat_map(|all| all.take_sections(sections)).collect::<Vec<_>>()
            {
                named.extend(self.named_keys(&mut section, place, into));
            }
            self.other_keys(place, &named, into);
        }
        for mut section in authorities {
            let span = section.span;
            let mut found = Vec::new();
            for (key, place) in [("cacert", X509CA), ("file", "")] {
                let materials = section.material(key);
                found.extend(self.certificates(&materials, place, &format!("{}.{key}", section.path)));
            }
            if found.is_empty() && !self.reported(&section) {
                let problem = Problem::new(span, section.path.clone(), "there is no certificate");
                self.error(problem.expected("`cacert = <file>` in this section"));
            }
            for certificate in found {
                if let Err(error) = into.trust.add_authority(certificate) {
                    self.error(Problem::new(span, section.path.clone(), error.to_string()));
                }
            }
        }
        self.directories(into);
    }

    /// The keys of the file that a section names. Returns where that is.
    fn named_keys(
        &mut self,
        section: &mut Checked,
        place: &str,
        into: &mut Configuration,
    ) -> Option<PathBuf> {
        let span = section.span_of("file").unwrap_or(section.span);
        // Never the key itself: what a file is called may be shown.
        let Some(Value::Text(name)) = section.one("file") else {
            if !self.reported(section) {
                let problem = Problem::new(span, section.path.clone(), "there is no `file`");
                self.error(problem.expected("`file = <private key>` in this section"));
            }
            return None;
        };
        let file = self.shelf.path(&name, place);
        self.shelf.secret.extend(file.clone());
        match self.shelf.objects(&Material::File(name), place).and_then(|objects| keys(&objects)) {
            Ok(keys) => into.keys.extend(keys),
            Err(why) => self.error(Problem::new(span, format!("{}.file", section.path), why)),
        }
        file
    }

    /// The keys of a directory that no section names.
    fn other_keys(&mut self, place: &str, named: &BTreeSet<PathBuf>, into: &mut Configuration) {
        for path in self.shelf.files(place) {
            if named.contains(&path) {
                continue;
            }
            match self.shelf.open(&path).and_then(|objects| keys(&objects)) {
                Ok(keys) => {
                    into.keys.extend(keys);
                    self.shelf.secret.insert(path);
                }
                Err(why) => self.left_out(&path, &why),
            }
        }
    }

    fn left_out(&mut self, path: &std::path::Path, why: &str) {
        let problem = Problem::nowhere(path.display().to_string(), format!("left out: {why}"));
        self.diagnostics.warning(self.sources, problem);
    }

    fn directories(&mut self, into: &mut Configuration) {
        for place in [X509CA, X509, X509CRL] {
            for path in self.shelf.files(place) {
                // One that is of no use leaves the others in its file alone.
                let taken: Vec<Result<(), String>> = match self.shelf.open(&path) {
                    Ok(objects) => objects.iter().map(|object| self.take(place, object, into)).collect(),
                    Err(why) => vec![Err(why)],
                };
                for why in taken.into_iter().filter_map(Result::err) {
                    self.left_out(&path, &why);
                }
            }
        }
    }

    /// Takes what a file of a directory holds, if it belongs there.
    fn take(&mut self, place: &str, (label, der): &Object, into: &mut Configuration) -> Result<(), String> {
        let wanted = if place == X509CRL { Label::Crl } else { Label::Certificate };
        if ![wanted, Label::Unknown].contains(label) {
            return Ok(());
        }
        if place == X509CRL {
            let crl = Crl::from_der(der).map_err(|error| error.to_string())?;
            return into.trust.add_crl(crl).map_err(|error| error.to_string());
        }
        let certificate = Certificate::from_der(der).map_err(|error| error.to_string())?;
        if place == X509CA {
            return into.trust.add_authority(certificate).map_err(|error| error.to_string());
        }
        into.trust.add_intermediate(certificate.clone());
        self.own.push(certificate);
        Ok(())
    }

    /// The certificates that values name; of several in a file the first is meant, and the others lead to it.
    fn certificates(&mut self, materials: &[(Material, Span)], place: &str, path: &str) -> Vec<Certificate> {
        let mut found = Vec::new();
        for (material, span) in materials {
            let read = self.shelf.objects(material, place).and_then(|objects| {
                let ders = objects.iter().filter(|(l, _)| [Label::Certificate, Label::Unknown].contains(l));
                let all: Result<Vec<Certificate>, _> = ders
                    .map(|(_, der)| Certificate::from_der(der).map_err(|error| error.to_string()))
                    .collect();
                let mut all = all?.into_iter();
                Ok((all.next().ok_or("there is no certificate in it")?, all.collect::<Vec<_>>()))
            });
            match read {
                Ok((first, others)) => {
                    found.push(first);
                    self.between.extend(others);
                }
                Err(why) => self.error(Problem::new(*span, path, why)),
            }
        }
        found
    }

    /// The one authentication round of a side.
    pub(super) fn round(&mut self, section: &mut Checked, kind: &str, side: &str) -> Option<Round> {
        let mut rounds = section.take_sections(kind).into_iter();
        let Some(mut round) = rounds.next() else {
            if !self.reported(section) {
                let problem =
                    Problem::new(section.span, section.path.clone(), format!("there is no section `{side}`"));
                self.error(problem.expected(format!("`{side} {{ auth = psk }}` in this section")));
            }
            return None;
        };
        for other in rounds {
            let problem =
                Problem::new(other.span, other.path, "several authentication rounds are not done yet");
            self.error(
                problem.expected(format!("one `{side}` section")).note("the first round", Some(round.span)),
            );
        }
        let span = round.span_of("auth").unwrap_or(round.span);
        let Some(Value::Auth(auth)) = round.one("auth") else { return None };
        Some(Round { auth, id: round.one("id"), span, section: round })
    }

    /// With what we authenticate, and who we are then.
    pub(super) fn local_auth(
        &mut self,
        round: Round,
        known: [&Configuration; 2],
    ) -> (LocalAuth, Option<Identity>) {
        let Round { auth, id, span, mut section } = round;
        let id = match id {
            Some(Value::Identity(identity)) => Some(identity),
            _ => None,
        };
        let constraints = match auth {
            Auth::Psk => return (LocalAuth::Psk, id),
            Auth::PublicKey(constraints) => constraints,
        };
        let has_key = |certificate: &Certificate| {
            known.iter().flat_map(|some| &some.keys).any(|key| key.public_key() == certificate.spki())
        };
        let path = section.path.clone();
        let mut certificates = self.named_certificates(&mut section, "certs", X509, "cert*");
        for certificate in certificates.iter().filter(|certificate| !has_key(certificate)) {
            let message = format!("there is no private key for \"{certificate}\"");
            let problem =
                Problem::new(section.span_of("certs").unwrap_or(span), format!("{path}.certs"), message);
            self.error(problem.expected("its key in `private`, without a passphrase"));
        }
        let names = |certificate: &Certificate, id: &Identity| {
            id.as_name().is_some_and(|name| certificate.names(&name))
        };
        if certificates.is_empty() && !self.reported(&section) {
            let own = self.own.iter().filter(|own| has_key(own));
            certificates.extend(own.filter(|own| id.as_ref().is_none_or(|id| names(own, id))).cloned());
            if certificates.is_empty() {
                let problem =
                    Problem::new(span, format!("{path}.certs"), "there is no certificate to authenticate by");
                self.error(problem.expected(
                    "`certs = <file in x509>` with its key in `private`; or `auth = psk`, if that is meant",
                ));
            }
        }
        let now = SystemTime::now();
        for certificate in certificates.iter().filter(|certificate| certificate.not_after() < now + SOON) {
            let over = certificate.not_after() < now;
            let when = if over { "has expired, so no peer believes it" } else { "expires within a week" };
            let at = section.span_of("certs").unwrap_or(span);
            let problem = Problem::new(at, format!("{path}.certs"), format!("\"{certificate}\" {when}"));
            self.diagnostics.warning(self.sources, problem.expected("one that is issued anew, in its place"));
        }
        if let Some(id) = &id {
            for certificate in certificates.iter().filter(|certificate| !names(certificate, id)) {
                let names: Vec<String> = certificate.alt_names().iter().map(ToString::to_string).collect();
                let message =
                    format!("\"{certificate}\" does not say that it is {id}, so no peer would believe it");
                let expected = format!("its subject, or one of its names: {}", names.join(", "));
                let at = section.span_of("id").unwrap_or(span);
                self.error(Problem::new(at, format!("{path}.id"), message).expected(expected));
            }
        }
        let id = id.or_else(|| certificates.first().map(|own| Identity::distinguished_name(own.subject())));
        (LocalAuth::PublicKey { certificates, constraints }, id)
    }

    /// What the peer has to prove.
    pub(super) fn remote_auth(&mut self, round: Round, known: [&Configuration; 2]) -> RemoteAuth {
        let Round { auth, span, mut section, .. } = round;
        let constraints: Constraints = match auth {
            Auth::Psk => return RemoteAuth::Psk,
            Auth::PublicKey(constraints) => constraints,
        };
        let policies = match section.one("cert_policy") {
            Some(Value::Oids(policies)) => policies.iter().filter_map(|oid| oid.parse().ok()).collect(),
            _ => Vec::new(),
        };
        let revocation = match section.word_of("revocation") {
            Some("strict") => Revocation::Strict,
            Some("ifuri") => Revocation::IfUri,
            _ => Revocation::Relaxed,
        };
        let ca_id_span = section.span_of("ca_id");
        let ca_id = match section.one("ca_id") {
            Some(Value::Identity(identity)) => Some(identity),
            _ => None,
        };
        if let (Some(id), Some(span)) = (&ca_id, ca_id_span)
            && id.as_name().is_none()
        {
            let problem =
                Problem::new(span, format!("{}.ca_id", section.path), "no certificate says such an identity");
            self.error(problem.expected("a subject, like `C=CH, O=Example, CN=CA`, a name or an address"));
        }
        let requirements = Requirements {
            ca_id: ca_id.as_ref().and_then(Identity::as_name).map(Into::into),
            pinned: self.named_certificates(&mut section, "certs", X509, "cert*"),
            authorities: self.named_certificates(&mut section, "cacerts", X509CA, "cacert*"),
            policies,
            revocation,
            ..Requirements::default()
        };
        let trusted = known.iter().any(|some| some.trust.authorities().next().is_some());
        if requirements.pinned.is_empty()
            && requirements.authorities.is_empty()
            && !trusted
            && !self.reported(&section)
        {
            let message = "no authority is trusted, so no peer would be believed";
            let problem = Problem::new(span, format!("{}.auth", section.path), message);
            let problem =
                problem.expected("a certificate in `x509ca`, `cacerts` or `certs`; or `auth = psk`");
            self.diagnostics.warning(self.sources, problem);
        }
        RemoteAuth::PublicKey { requirements, constraints }
    }

    /// What a key lists, and what sections beside it name.
    fn named_certificates(
        &mut self,
        section: &mut Checked,
        key: &str,
        place: &str,
        sections: &str,
    ) -> Vec<Certificate> {
        let path = format!("{}.{key}", section.path);
        let materials = section.material(key);
        let mut found = self.certificates(&materials, place, &path);
        for mut inner in section.take_sections(sections) {
            let materials = inner.material("file");
            found.extend(self.certificates(&materials, "", &format!("{}.file", inner.path)));
        }
        found
    }
}

impl Checked {
    fn material(&mut self, key: &str) -> Vec<(Material, Span)> {
        match self.one(key) {
            Some(Value::Material(material)) => material,
            _ => Vec::new(),
        }
    }
}

/// The private keys among objects; there must be one.
fn keys(objects: &[Object]) -> Result<Vec<Arc<dyn Signer>>, String> {
    let mut found: Vec<Arc<dyn Signer>> = Vec::new();
    for (label, der) in objects {
        match label {
            Label::PrivateKey | Label::Unknown => {
                let key = PrivateKey::from_der(der).map_err(
                    |_| "not a private key that can be used: RSA of 2048 bits or more, ECDSA, Ed25519",
                )?;
                found.push(Arc::new(key));
            }
            Label::EncryptedPrivateKey => {
                return Err(
                    "an encrypted key, which is not done yet: decrypt it by `openssl pkcs8`".to_owned()
                );
            }
            Label::Certificate | Label::Crl => {}
        }
    }
    if found.is_empty() { Err("there is no private key in it".to_owned()) } else { Ok(found) }
}
