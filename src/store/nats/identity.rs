//! How we show who we are. Files are read at every connection, so that secrets can be rotated.

use std::fs;
use std::path::Path;

use async_nats::{Auth as Shown, AuthError, ConnectOptions};

use super::Auth;

/// Options that show who we are at every connection.
pub(super) fn authenticate(auth: Auth) -> ConnectOptions {
    match auth {
        Auth::None => ConnectOptions::new(),
        Auth::UserPassword { .. } | Auth::Token(_) | Auth::Nkey(_) | Auth::Credentials(_) => {
            ConnectOptions::with_auth_callback(move |nonce| {
                std::future::ready(show(&auth, &nonce).map_err(AuthError::new))
            })
        }
    }
}

/// What we show; the files are small and read at every connection.
fn show(auth: &Auth, nonce: &[u8]) -> Result<Shown, String> {
    let mut shown = Shown::new();
    match auth {
        Auth::None => {}
        Auth::UserPassword { user, password_file } => {
            shown.username = Some(user.clone());
            shown.password = Some(secret("password_file", password_file)?);
        }
        Auth::Token(file) => shown.token = Some(secret("token_file", file)?),
        Auth::Nkey(file) => {
            let pair = key("nkey_file", file, &secret("nkey_file", file)?)?;
            shown.nkey = Some(pair.public_key());
            shown.signature = Some(sign(&pair, nonce)?);
        }
        Auth::Credentials(file) => {
            let text = secret("credentials_file", file)?;
            let mut parts = text.lines().skip_while(|line| !line.starts_with("-----BEGIN"));
            let jwt = parts.nth(1).map(str::trim);
            let mut parts = parts.skip_while(|line| !line.starts_with("-----BEGIN"));
            let seed = parts.nth(1).map(str::trim);
            let (Some(jwt), Some(seed)) = (jwt, seed) else {
                return Err(about("credentials_file", file, "it holds no JWT and seed"));
            };
            shown.jwt = Some(jwt.to_owned());
            shown.signature = Some(sign(&key("credentials_file", file, seed)?, nonce)?);
        }
    }
    Ok(shown)
}

/// What is shown, by the names of its settings; no secret.
pub(super) fn described(auth: &Auth) -> String {
    let named = |setting: &str, file: &Path| format!("store.nats.{setting} = {}", file.display());
    match auth {
        Auth::None => "no way to authenticate is set in store.nats".to_owned(),
        Auth::UserPassword { user, password_file } => {
            format!("store.nats.user = {user}, {}", named("password_file", password_file))
        }
        Auth::Token(file) => named("token_file", file),
        Auth::Nkey(file) => named("nkey_file", file),
        Auth::Credentials(file) => named("credentials_file", file),
    }
}

fn about(setting: &str, file: &Path, what: impl std::fmt::Display) -> String {
    format!("store.nats.{setting} = {}: {what}", file.display())
}

fn secret(setting: &str, file: &Path) -> Result<String, String> {
    let text = fs::read_to_string(file).map_err(|e| about(setting, file, e))?;
    match text.trim() {
        "" => Err(about(setting, file, "it is empty")),
        text => Ok(text.to_owned()),
    }
}

/// The library's own words could quote what they are about.
fn key(setting: &str, file: &Path, seed: &str) -> Result<nkeys::KeyPair, String> {
    nkeys::KeyPair::from_seed(seed).map_err(|_| about(setting, file, "it holds no seed of an nkey"))
}

fn sign(pair: &nkeys::KeyPair, nonce: &[u8]) -> Result<Vec<u8>, String> {
    pair.sign(nonce).map_err(|error| format!("cannot sign: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read_again_and_credentials_taken_apart() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        let auth = Auth::UserPassword { user: "u".to_owned(), password_file: file.clone() };
        assert!(show(&auth, b"").is_err());
        for password in ["one", "two"] {
            fs::write(&file, format!("{password}\n")).unwrap();
            assert_eq!(show(&auth, b"").unwrap().password.as_deref(), Some(password));
        }
        let pair = nkeys::KeyPair::new_user();
        let seed = pair.seed().unwrap();
        fs::write(&file, &seed).unwrap();
        assert_eq!(show(&Auth::Nkey(file.clone()), b"n").unwrap().nkey, Some(pair.public_key()));
        let text = format!(
            "-----BEGIN NATS USER JWT-----\nabc\n------END NATS USER JWT------\n\nsecret\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        fs::write(&file, text).unwrap();
        let shown = show(&Auth::Credentials(file.clone()), b"n").unwrap();
        assert_eq!((shown.jwt.as_deref(), shown.signature.is_some()), (Some("abc"), true));
        for nonsense in ["", "nonsense", "-----BEGIN\nabc\n-----END\n-----BEGIN\nSUAnonsense"] {
            fs::write(&file, nonsense).unwrap();
            for (name, auth) in [
                ("credentials_file", Auth::Credentials(file.clone())),
                ("nkey_file", Auth::Nkey(file.clone())),
            ] {
                let error = show(&auth, b"n").err().unwrap();
                assert!(error.contains(name) && !error.contains("nonsense"), "{error}");
            }
        }
    }
}
