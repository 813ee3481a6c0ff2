//! The kinds of objects, and how requests name them.

use super::failure::Failure;

/// One kind of objects.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    /// API group; the core group has no name.
    pub(crate) group: &'static str,
    /// Version of the group.
    pub(crate) version: &'static str,
    /// Name in paths and roles.
    pub(crate) plural: &'static str,
    /// Name in objects.
    pub(crate) kind: &'static str,
    /// Whether its status is written apart from the rest.
    pub(crate) has_status: bool,
    /// Whether it may be replaced without saying which version is meant.
    pub(crate) unconditional: bool,
}

/// Clusters of CloudNativePG.
pub(crate) static CLUSTERS: Resource = Resource {
    group: "postgresql.cnpg.io",
    version: "v1",
    plural: "clusters",
    kind: "Cluster",
    has_status: true,
    unconditional: false,
};
/// Leases.
pub(crate) static LEASES: Resource = Resource {
    group: "coordination.k8s.io",
    version: "v1",
    plural: "leases",
    kind: "Lease",
    has_status: false,
    unconditional: false,
};
/// Pods.
pub(crate) static PODS: Resource = Resource {
    group: "",
    version: "v1",
    plural: "pods",
    kind: "Pod",
    has_status: true,
    unconditional: true,
};
/// Events as they always were.
pub(crate) static EVENTS: Resource = Resource {
    group: "",
    version: "v1",
    plural: "events",
    kind: "Event",
    has_status: false,
    unconditional: true,
};
/// Events in their own group; the double keeps them apart from the others.
pub(crate) static NEW_EVENTS: Resource = Resource {
    group: "events.k8s.io",
    version: "v1",
    plural: "events",
    kind: "Event",
    has_status: false,
    unconditional: true,
};

static ALL: [&Resource; 5] = [&CLUSTERS, &LEASES, &PODS, &EVENTS, &NEW_EVENTS];

impl Resource {
    /// As error messages name it.
    pub(crate) fn full(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// As objects name it.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The kind.
    pub(crate) resource: &'static Resource,
    /// None: in all namespaces.
    pub(crate) namespace: Option<String>,
    /// None: all of them.
    pub(crate) name: Option<String>,
    /// Its status only.
    pub(crate) status: bool,
}

impl Place {
    /// Reads `/apis/GROUP/VERSION/namespaces/NS/PLURAL/NAME/status` and its shorter forms.
    pub(crate) fn read(path: &str) -> Result<Self, Failure> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return Err(Failure::no_such_path()),
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] => (Some((*namespace).to_owned()), rest),
            _ => (None, rest),
        };
        let (plural, name, sub) = match rest {
            [plural] => (*plural, None, None),
            [plural, name] => (*plural, Some((*name).to_owned()), None),
            [plural, name, sub] => (*plural, Some((*name).to_owned()), Some(*sub)),
            _ => return Err(Failure::no_such_path()),
        };
        let resource = ALL
            .into_iter()
            .find(|known| (known.group, known.version, known.plural) == (group, version, plural))
            .ok_or_else(Failure::no_such_path)?;
        let status = match sub {
            None => false,
            Some("status") if resource.has_status => true,
            Some(_) => return Err(Failure::no_such_path()),
        };
        if name.is_some() && namespace.is_none() {
            return Err(Failure::no_such_path());
        }
        Ok(Self { resource, namespace, name, status })
    }

    /// As roles and tests name it.
    pub(crate) fn in_roles(&self) -> String {
        let status = if self.status { "/status" } else { "" };
        format!("{}{status}", self.resource.plural)
    }
}
