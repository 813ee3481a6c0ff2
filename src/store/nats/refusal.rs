//! What an error of connecting means: trouble that may pass, or something that somebody has to mend,
//! by the names of its settings.

use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::Settings;
use super::identity::described;
use crate::store::Rejection;

/// The rejection that `error`, as told by the client library, comes to; none when it may pass.
pub(super) fn refusal(settings: &Settings, error: &str) -> Option<Rejection> {
    let lower = error.to_lowercase();
    let has = |part: &str| lower.contains(part);
    if has("authorization violation") || has("authentication") {
        let text = format!("{error} ({})", described(&settings.auth));
        return Some(Rejection::Permission(text));
    }
    // Our own words about a secret's file.
    if let Some((_, text)) = error.split_once("failed signing nonce: ") {
        return Some(Rejection::Other(text.to_owned()));
    }
    let text = if has("invalid peer certificate") {
        format!(
            "the certificate of the NATS server is not trusted: {error}; check {}",
            trust(settings)
        )
    } else if has("received fatal alert") {
        format!("the NATS server refuses our TLS: {error}; check {}", certificate(settings))
    } else if has("tls error") {
        let files = unreadable(settings).unwrap_or_else(|| error.to_owned());
        format!("TLS is not set up: {files}")
    } else if has("corrupt message") {
        format!(
            "the NATS server does not speak TLS: {error}; use nats:// in store.nats.servers \
             without store.nats.tls_ca_file, or set TLS up in the server"
        )
    } else {
        return None;
    };
    Some(Rejection::Other(text))
}

fn trust(settings: &Settings) -> String {
    match &settings.tls_ca_file {
        Some(file) => format!(
            "store.nats.tls_ca_file = {} and the names in store.nats.servers",
            file.display()
        ),
        None => "the names in store.nats.servers, and set store.nats.tls_ca_file when the \
                 authority is none of the system's"
            .to_owned(),
    }
}

fn certificate(settings: &Settings) -> String {
    match (&settings.tls_certificate_file, &settings.tls_key_file) {
        (Some(certificate), Some(key)) => format!(
            "store.nats.tls_certificate_file = {} and store.nats.tls_key_file = {}",
            certificate.display(),
            key.display()
        ),
        (None, _) | (_, None) => "whether it wants a client certificate: \
                                  store.nats.tls_certificate_file and tls_key_file are not set"
            .to_owned(),
    }
}

/// The first of the files of TLS that cannot be used.
fn unreadable(settings: &Settings) -> Option<String> {
    let certificates = |file: &Path| match CertificateDer::pem_file_iter(file) {
        Ok(found) => match found.collect::<Result<Vec<_>, _>>() {
            Ok(found) if found.is_empty() => Some("it holds no certificate".to_owned()),
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        },
        Err(error) => Some(error.to_string()),
    };
    let key = |file: &Path| PrivateKeyDer::from_pem_file(file).err().map(|error| error.to_string());
    let said = |name: &str, file: &Path, error: Option<String>| {
        error.map(|error| format!("store.nats.{name} = {}: {error}", file.display()))
    };
    let ca = settings.tls_ca_file.as_deref();
    let ca = ca.and_then(|file| said("tls_ca_file", file, certificates(file)));
    let ours = settings.tls_certificate_file.as_deref();
    let ours = ours.and_then(|file| said("tls_certificate_file", file, certificates(file)));
    let keys = settings.tls_key_file.as_deref();
    let keys = keys.and_then(|file| said("tls_key_file", file, key(file)));
    let pair = || {
        let both = settings.tls_certificate_file.is_some() && settings.tls_key_file.is_some();
        both.then(|| format!("{} do not fit together", certificate(settings)))
    };
    ca.or(ours).or(keys).or_else(pair)
}
