//! Refuses contradictions in how a cluster grows and is founded.

use crate::deployment::META_CLUSTER;
use crate::document::ClusterFile;
use crate::error::Invalid;

/// A machine that joins gets its cluster's secret only, while members of the meta cluster hold all.
pub(crate) fn check(field: &str, cluster: &ClusterFile) -> Result<(), Box<Invalid>> {
    let code = "FR-DEPLOYMENT-AUTOSCALE";
    if cluster.autoscale && cluster.name.as_str() == META_CLUSTER {
        let message =
            format!("{META_CLUSTER} cannot scale by itself: its members are the meta nodes");
        let hint = "declare each meta node";
        return Err(Invalid::new(
            code,
            format!("{field}.autoscale"),
            message,
            hint,
        ));
    }
    if cluster.bootstrap_fallback_minutes > 1440 {
        let field = format!("{field}.bootstrap_fallback_minutes");
        let message = format!(
            "{} minutes are more than a day",
            cluster.bootstrap_fallback_minutes
        );
        return Err(Invalid::new(
            "FR-DEPLOYMENT-FIELD",
            field,
            message,
            "0 means never",
        ));
    }
    Ok(())
}
