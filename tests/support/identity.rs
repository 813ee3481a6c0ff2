//! Certificates and NATS identities, made for one test and worth nothing elsewhere.

use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa};
use serde_json::{Value, json};

/// An authority for certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, rcgen::KeyPair>);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// What has to be trusted (PEM).
    pub(crate) fn certificate(&self) -> String {
        self.0.pem()
    }

    /// A certificate for 127.0.0.1, good for servers and clients, and its key (PEM).
    pub(crate) fn issue(&self) -> (String, String) {
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// A NATS operator with one account, and the servers' own.
pub(crate) struct Operator {
    operator: KeyPair,
    system: KeyPair,
    account: KeyPair,
}

impl Operator {
    pub(crate) fn new() -> Self {
        let (system, account) = (KeyPair::new_account(), KeyPair::new_account());
        Self { operator: KeyPair::new_operator(), system, account }
    }

    /// A server's configuration in which users count whose JWT was signed by `signer`.
    pub(crate) fn server(&self, signer: &KeyPair) -> String {
        let operator = json!({ "type": "operator", "version": 2 });
        let operator = jwt(&self.operator, &self.operator.public_key(), &operator);
        let account = json!({
            "type": "account", "version": 2, "signing_keys": [signer.public_key()],
            "limits": { "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
                "wildcards": true, "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1,
                "streams": -1, "consumer": -1 },
        });
        let name = self.account.public_key();
        let account = jwt(&self.operator, &name, &account);
        let system = self.system.public_key();
        let own = json!({ "type": "account", "version": 2, "limits": { "subs": -1, "conn": -1,
            "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true } });
        let own = jwt(&self.operator, &system, &own);
        format!(
            "operator: {operator}\nsystem_account: {system}\nresolver: MEMORY\n\
             resolver_preload: {{ {name}: {account}, {system}: {own} }}"
        )
    }

    /// The credentials file of a new user, signed by `signer`.
    pub(crate) fn credentials(&self, signer: &KeyPair) -> String {
        let user = KeyPair::new_user();
        let claims = json!({ "type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1,
            "data": -1, "payload": -1, "issuer_account": self.account.public_key() });
        let jwt = jwt(signer, &user.public_key(), &claims);
        let seed = user.seed().unwrap();
        format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    }
}

fn jwt(issuer: &KeyPair, subject: &str, nats: &Value) -> String {
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let claims = json!({ "jti": "test", "iat": 1_700_000_000, "iss": issuer.public_key(),
        "name": "test", "sub": subject, "nats": nats });
    let signed = format!(
        "{}.{}",
        base64(header.to_string().as_bytes()),
        base64(claims.to_string().as_bytes())
    );
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", base64(&signature))
}

/// As in URLs, without padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    bytes
        .chunks(3)
        .flat_map(|chunk| {
            let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            (0..=chunk.len()).map(move |at| {
                char::from(DIGITS[usize::try_from(bits >> (18 - 6 * at) & 63).unwrap()])
            })
        })
        .collect()
}
