//! What an API server answers instead of what was asked for: a `Status`.

use serde_json::{Value, json};

use super::resource::Resource;

/// An answer that is an error.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    /// The HTTP status.
    pub(crate) code: u16,
    /// One word for programs.
    pub(crate) reason: &'static str,
    /// A sentence for people.
    pub(crate) message: String,
    /// When to come again, in seconds.
    pub(crate) retry_after: Option<u32>,
    /// Which object, and what about it.
    pub(crate) details: Value,
}

impl Failure {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), retry_after: None, details: json!({}) }
    }

    fn about(mut self, resource: &Resource, name: &str) -> Self {
        self.details = json!({ "name": name, "group": resource.group, "kind": resource.plural });
        self
    }

    /// Not understood.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// A token nobody has.
    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// Not allowed.
    pub(crate) fn forbidden(
        resource: &Resource,
        name: Option<&str>,
        rest: impl std::fmt::Display,
    ) -> Self {
        let quoted = name.map_or_else(String::new, |name| format!(" {name:?}"));
        Self::new(403, "Forbidden", format!("{}{quoted} is forbidden: {rest}", resource.full()))
            .about(resource, name.unwrap_or_default())
    }

    /// No such object.
    pub(crate) fn not_found(resource: &Resource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", resource.full()))
            .about(resource, name)
    }

    /// No such place.
    pub(crate) fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// There is such an object.
    pub(crate) fn exists(resource: &Resource, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} {name:?} already exists", resource.full()))
            .about(resource, name)
    }

    /// Somebody else wrote in between.
    pub(crate) fn conflict(resource: &Resource, name: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: the object has been modified; please \
             apply your changes to the latest version and try again",
            resource.full()
        );
        Self::new(409, "Conflict", message).about(resource, name)
    }

    /// History that is forgotten.
    pub(crate) fn gone(asked: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    /// An object that breaks rules, `faults` as (field, what is wrong with it).
    pub(crate) fn invalid(
        resource: &Resource,
        group: &str,
        name: &str,
        faults: &[(String, String)],
    ) -> Self {
        let told: Vec<String> =
            faults.iter().map(|(field, text)| format!("{field}: {text}")).collect();
        let told = match told.as_slice() {
            [only] => only.clone(),
            all => format!("[{}]", all.join(", ")),
        };
        let message = format!("{}.{group} {name:?} is invalid: {told}", resource.kind);
        let mut failure = Self::new(422, "Invalid", message).about(resource, name);
        failure.details["causes"] = faults
            .iter()
            .map(|(field, text)| {
                json!({ "reason": "FieldValueInvalid", "message": text, "field": field })
            })
            .collect();
        failure
    }

    /// The same, said by an admission webhook.
    pub(crate) fn denied_by(mut self, webhook: &str) -> Self {
        self.message =
            format!("admission webhook {webhook:?} denied the request: {}", self.message);
        self
    }

    /// The wrong kind of body.
    pub(crate) fn unsupported(content: &str) -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/merge-patch+json (this double knows no other); got {content:?}"
            ),
        )
    }

    /// Too much is asked for.
    pub(crate) fn too_many(retry_after: u32) -> Self {
        let message = "too many requests, please try again later";
        let mut failure = Self::new(429, "TooManyRequests", message);
        failure.retry_after = Some(retry_after);
        failure
    }

    /// Something is broken inside.
    pub(crate) fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    /// Any other error of the server.
    pub(crate) fn server(code: u16) -> Self {
        let (reason, message) = match code {
            503 => ("ServiceUnavailable", "the server is currently unable to handle the request"),
            504 => ("Timeout", "the request did not complete within the allotted timeout"),
            _ => (
                "InternalError",
                "an error on the server has prevented the request from succeeding",
            ),
        };
        Self::new(code, reason, message)
    }

    /// The server cannot be reached; what actors of this process get where others get no answer.
    pub(crate) fn unreachable() -> Self {
        Self::new(0, "Unreachable", "the API server cannot be reached")
    }

    /// As it is sent.
    pub(crate) fn body(&self) -> Value {
        let mut details = self.details.clone();
        if let Some(seconds) = self.retry_after {
            details["retryAfterSeconds"] = seconds.into();
        }
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "details": details, "code": self.code,
        })
    }
}
