//! What a connection string of PostgreSQL says.

/// Host and port in a `primary_conninfo`.
pub(in crate::database) fn parse_conninfo(text: &str) -> Option<(String, u16)> {
    let (mut host, mut port) = (None, 5432);
    let mut rest = text.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let (value, left) = conninfo_value(after.trim_start());
        match key.trim() {
            "host" => host = Some(value).filter(|host| !host.is_empty()),
            "port" => port = value.parse().ok()?,
            _ => {}
        }
        rest = left.trim_start();
    }
    host.map(|host| (host, port))
}

/// The value at the start of `text`, unquoted, and what follows it.
fn conninfo_value(text: &str) -> (String, &str) {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return (value, &text[at + 1..]),
            space if !quoted && space.is_whitespace() => return (value, &text[at..]),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conninfo_is_read_back() {
        let text = "host='10.0.0.7' port=5433 user='a' application_name='b' passfile='/x y' \
                    keepalives=1 keepalives_idle=1 tcp_user_timeout=3000";
        assert_eq!(parse_conninfo(text), Some(("10.0.0.7".to_owned(), 5433)));
        assert_eq!(parse_conninfo(""), None);
    }
}
