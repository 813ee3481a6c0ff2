//! The fields of CloudNativePG's `Cluster` that the adapter uses. Others are passed over; one of another
//! type than CloudNativePG has it is an error, and nothing is decided by what could not be read.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer};

/// A text that is shown nowhere: a token.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(super) struct Hidden(String);

impl Hidden {
    /// The text, to be compared or sent.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "(none)" } else { "(not shown)" })
    }
}

/// A `Cluster` as it was read at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Cluster {
    pub(super) metadata: Metadata,
    pub(super) spec: Spec,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) status: Status,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Pod {
    pub(super) metadata: Metadata,
    #[serde(default, deserialize_with = "or_default")]
    status: PodStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct PodStatus {
    #[serde(default, deserialize_with = "or_default")]
    conditions: Vec<PodCondition>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct PodCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl Pod {
    /// All its containers serve.
    pub(super) fn is_ready(&self) -> bool {
        let ready = |it: &PodCondition| it.kind == "Ready" && it.status == "True";
        self.metadata.deletion_timestamp.is_none() && self.status.conditions.iter().any(ready)
    }
}

/// What every object of Kubernetes has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    pub(super) name: String,
    pub(super) resource_version: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) deletion_timestamp: Option<String>,
}

/// What somebody wants it to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    pub(super) instances: u32,
    pub(super) replica: Option<Replica>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) external_clusters: Vec<External>,
    pub(super) smart_shutdown_timeout: Option<i64>,
    pub(super) switchover_delay: Option<i64>,
    pub(super) failover_delay: Option<i64>,
    pub(super) primary_update_method: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) postgresql: Postgresql,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) probes: Probes,
}

/// How PostgreSQL is to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Postgresql {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) synchronous: Synchronous,
}

/// For whom commits wait, and what CloudNativePG makes of that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Synchronous {
    pub(super) failover_quorum: Option<bool>,
}

/// How its instances are asked whether they live.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Probes {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) liveness: Liveness,
}

/// The same, of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Liveness {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) isolation_check: IsolationCheck,
}

/// A primary that reaches nobody ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct IsolationCheck {
    pub(super) enabled: Option<bool>,
}

/// Its part in a topology of several sites.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Replica {
    #[serde(rename = "self")]
    pub(super) own: Option<String>,
    pub(super) primary: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) source: String,
    pub(super) enabled: Option<bool>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) promotion_token: Hidden,
    pub(super) min_apply_delay: Option<String>,
}

/// A server that may be replicated from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct External {
    pub(super) name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) connection_parameters: BTreeMap<String, String>,
}

/// What CloudNativePG says that it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) instance_names: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) current_primary: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) target_primary: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) phase: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) phase_reason: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) demotion_token: Hidden,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) last_promotion_token: Hidden,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) switch_replica_cluster_status: Switch,
}

/// A change between primary and replica cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Switch {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) in_progress: bool,
}

/// The phase in which CloudNativePG leaves a Cluster to people.
const UNRECOVERABLE: &str = "Cluster is unrecoverable and needs manual intervention";

impl External {
    /// Host and port it leads to, when it has a host.
    pub(super) fn place(&self) -> Option<(String, u16)> {
        let host = self.connection_parameters.get("host")?.clone();
        let port = self.connection_parameters.get("port").map(|port| port.parse().unwrap_or(0));
        Some((host, port.unwrap_or(5432)))
    }
}

impl Cluster {
    /// The site's name among the sites.
    pub(super) fn site(&self) -> &str {
        let own = self.spec.replica.as_ref().and_then(|replica| replica.own.as_deref());
        own.filter(|own| !own.is_empty()).unwrap_or(&self.metadata.name)
    }

    /// It is to replicate from another site; CloudNativePG's own rule.
    pub(super) fn is_replica(&self) -> bool {
        let Some(replica) = &self.spec.replica else { return false };
        replica.enabled.unwrap_or_else(|| replica.primary.as_deref() != Some(self.site()))
    }

    /// Another site's entry.
    pub(super) fn external(&self, site: &str) -> Option<&External> {
        self.spec.external_clusters.iter().find(|external| external.name == site)
    }

    /// It is becoming a replica cluster, or a primary one.
    pub(super) fn is_switching(&self) -> bool {
        self.status.switch_replica_cluster_status.in_progress
    }

    /// Its pods are gone, or going.
    pub(super) fn is_hibernated(&self) -> bool {
        self.annotation("cnpg.io/hibernation") == Some("on")
    }

    /// The operator leaves it alone: no change of roles would come to an end.
    pub(super) fn is_unattended(&self) -> bool {
        self.annotation("cnpg.io/reconciliationLoop") == Some("disabled")
    }

    /// Why CloudNativePG has given up on it, in its own words.
    pub(super) fn unrecoverable(&self) -> Option<&str> {
        (self.status.phase == UNRECOVERABLE).then_some(self.status.phase_reason.as_str())
    }

    /// The promotion that `spec` has a token for is over.
    pub(super) fn token_is_used(&self) -> bool {
        let token = self.spec.replica.as_ref().map_or("", |it| it.promotion_token.reveal());
        let used = self.status.last_promotion_token.reveal();
        !token.is_empty() && token == used && !self.is_replica()
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.get(key).map(String::as_str)
    }
}

/// JSON has a null where a field was taken away.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
