//! The one TLS provider of the whole process (adr/0006).

/// Makes `ring` the provider of every TLS connection. Call it before anything else; calling it
/// again changes nothing.
pub fn install() {
    // The only error is that a provider is installed already, which can only be this one.
    drop(rustls::crypto::ring::default_provider().install_default());
}
