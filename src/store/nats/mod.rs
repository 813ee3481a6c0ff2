//! NATS JetStream: the store for production.

use std::path::PathBuf;
use std::time::Duration;

/// How to reach the servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `nats://host:port` or `tls://host:port`, the nearest first.
    pub servers: Vec<String>,
    /// How to show who we are.
    pub auth: Auth,
    /// CA certificates to trust (PEM), instead of the system's.
    pub tls_ca_file: Option<PathBuf>,
    /// Client certificate (PEM); with `tls_key_file`.
    pub tls_certificate_file: Option<PathBuf>,
    /// Its key (PEM).
    pub tls_key_file: Option<PathBuf>,
    /// Replicas of the bucket when we create it: 1, 3 or 5; 3 in production.
    pub replicas: u8,
    /// Limit of connecting to one server.
    pub connect_timeout: Duration,
    /// Time between pings; a server is given up after about two.
    pub ping_interval: Duration,
}

/// How to show who we are. Files are read again at every connection, so secrets can be rotated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// No credentials.
    None,
    /// User name and a file with the password.
    UserPassword {
        /// The user.
        user: String,
        /// File with the password.
        password_file: PathBuf,
    },
    /// A file with a token.
    Token(PathBuf),
    /// A file with an nkey seed.
    Nkey(PathBuf),
    /// A credentials file (JWT and seed).
    Credentials(PathBuf),
}
