//! A persistent layer whose node means another image version by now: kept, moved, or told why not.
//!
//! ```text
//!   the layer holds nothing                                  -> the new version, as for anybody
//!   layer over old version shows the bytes of the new one    -> moved: the layer begins empty over it
//!   anything else                                            -> kept over the old version, and told why
//! ```
//! Nothing but equal bytes is proof. The chunks that the layer does not touch are compared by their ids in
//! the two manifests, the others are read and hashed until one differs. So it does not matter who made the
//! new version, when, or what was written since: where the bytes agree the node cannot tell the difference,
//! and where they do not its file system would mix two histories.
//!
//! The order of a move: the binding says where to (durable), the layer is emptied (durable), the binding is
//! the new one. After a crash between them the binding tells what the disk is: with data in the layer still
//! the old version, without it the version moved to, whatever the node's setting means by then.

use super::Head;
use super::boot::NO_BOOT;
use super::error::Result;
use crate::catalog::{Binding, LayerMode, Moving, NodeRecord, Snapshot, VersionRecord};
use crate::names::ImageId;
use crate::store::image::holds_the_same;
use crate::units::HumanBytes;

/// What a boot would do with a node's disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outlook {
    /// The version it would boot.
    pub(super) label: Option<String>,
    /// Why that is not the one that its setting means, and what the operator can do.
    pub(super) kept: Option<String>,
}

impl Head {
    /// Where the layer of a kept binding can be moved: the version that the node's setting means, if what
    /// the node sees is that very version. May read as much as the layer holds.
    pub(super) fn can_move(
        &self,
        now: &Snapshot,
        record: &NodeRecord,
        old: &Binding,
    ) -> Option<Moving> {
        let (label, version) = wanted(now, record)?;
        if version.id == old.image {
            return None;
        }
        let (image, node) = (version.id, &record.name);
        match self.shows(record, old.image, image) {
            Ok(Some(true)) => {
                let from = &old.label;
                tracing::info!(%node, %from, to = %label, "the layer moves: it shows that version");
                return Some(Moving { label, image });
            }
            Ok(Some(false)) => {}
            Ok(None) => {
                tracing::warn!(%node, "the layer is too large to be compared with {label} at a boot");
            }
            Err(error) => {
                tracing::warn!(%node, %error, "the persistent layer cannot be compared with {label}");
            }
        }
        let kept = &old.label;
        let way_out = way_out(record, &label);
        tracing::warn!(%node, %kept, "the persistent layer stays on its version; {way_out}");
        None
    }

    fn shows(&self, record: &NodeRecord, old: ImageId, new: ImageId) -> Result<Option<bool>> {
        // What a sanitize has begun to destroy must not come back from an image.
        if self.sanitize_cut(record.layer).is_some() || self.layer_trouble(record.layer).is_some() {
            return Ok(Some(false));
        }
        let base = self.store.images.open_image(old)?;
        let other = self.store.images.open_image(new)?;
        let view = self.store.layers.view(record.layer, base)?;
        Ok(holds_the_same(&view, &other, self.rebase_bytes)?)
    }

    /// Writes down where a layer goes, and empties it. The caller holds the node's lock and binds it then.
    pub(super) fn move_layer(&self, old: &Binding, to: &Moving) -> Result<()> {
        let leaving = Binding {
            moving: Some(to.clone()),
            ..old.clone()
        };
        self.catalog.transact(|changes| {
            changes.put_binding(leaving)?;
            Ok::<_, super::HeadError>(())
        })?;
        self.layer_reset(old.layer)
    }

    /// What the node's next boot would be, as far as can be told without reading its layer.
    pub(super) fn outlook(&self, now: &Snapshot, record: &NodeRecord) -> Outlook {
        let wanted = wanted(now, record);
        let label = wanted.as_ref().map(|(label, _)| label.clone());
        let fresh = Outlook { label, kept: None };
        let Some((label, version)) = wanted else {
            return fresh;
        };
        let Some(old) = now.binding(record.layer).filter(|b| b.boot != NO_BOOT) else {
            return fresh;
        };
        let persistent = record.mode == LayerMode::Persistent && old.mode == LayerMode::Persistent;
        let held = self.layer_use(record.layer);
        let trouble = self.layer_trouble(record.layer);
        if !persistent || version.id == old.image || !(held.holds_data() || trouble.is_some()) {
            return fresh;
        }
        let bytes = held.data_bytes.saturating_add(held.zero_bytes);
        let unless = match trouble {
            Some(trouble) => format!("({trouble})"),
            None if bytes > self.rebase_bytes => "too much to be compared at a boot".to_owned(),
            None => format!("and moves only if it shows the very bytes of {label}"),
        };
        let kept = format!(
            "its persistent layer holds {} of its own over {}, {unless}; {}",
            HumanBytes(bytes),
            old.label,
            way_out(record, &label)
        );
        Outlook {
            label: Some(old.label.clone()),
            kept: Some(kept),
        }
    }
}

fn way_out(record: &NodeRecord, label: &str) -> String {
    let name = &record.name;
    format!(
        "`reveille layer reset {name}` gives the changes up for {label}, `reveille layer promote {name} --name \
         IMAGE` makes them a version of their own"
    )
}

/// The label and the version that a node's setting means now.
fn wanted<'a>(now: &'a Snapshot, record: &NodeRecord) -> Option<(String, &'a VersionRecord)> {
    let image = record.image.as_ref()?;
    let version = now.resolve(image)?;
    Some((format!("{}:{}", image.name, version.version), version))
}

#[cfg(test)]
mod test;
