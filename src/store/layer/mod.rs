//! Layers. (Stand-in until the real engine is merged: whole layers in memory, one JSON file each.)

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, OpenMode};
use super::error::{Error, ErrorKind, Result};
use super::{Durability, Image, LayerId, Volume};
use crate::units::BLOCK_BYTES;

/// What opening found.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// Layers of volatile durability that were dropped because the host was restarted.
    pub lost: Vec<LayerId>,
}

/// What to open.
#[derive(Clone, Debug)]
pub struct VolumeSpec {
    /// The layer; made at its first write.
    pub layer: LayerId,
    /// What lies below it.
    pub image: Arc<Image>,
    /// What its FLUSH promises.
    pub durability: Durability,
}

/// How much a layer holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerStats {
    /// Blocks of its own.
    pub present_blocks: u64,
    /// Blocks that read zeros.
    pub zero_blocks: u64,
}

pub(super) type Blocks = BTreeMap<u64, Vec<u8>>;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) generation: u64,
    pub(super) blocks: Blocks,
}

/// The layers of one store directory.
#[derive(Debug)]
pub struct LayerStore {
    pub(super) disk: Arc<dyn Disk>,
    layers: Mutex<HashMap<LayerId, Arc<Mutex<State>>>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn path(layer: LayerId) -> String {
    format!("layers/{layer}")
}

pub(super) fn save(disk: &dyn Disk, layer: LayerId, blocks: &Blocks) -> Result<()> {
    let _ = disk.remove(&path(layer));
    let text = serde_json::to_vec(blocks).unwrap_or_default();
    disk.open(&path(layer), OpenMode::CreateNew)?
        .write_at(0, &text)
}

impl LayerStore {
    /// Opens the layers below `disk`'s root.
    pub fn open(disk: Arc<dyn Disk>, host_boot_id: &str) -> Result<(Self, Recovery)> {
        let _ = host_boot_id;
        disk.create_dir("layers")?;
        let mut layers = HashMap::new();
        for name in disk.list("layers")? {
            let file = disk.open(&format!("layers/{name}"), OpenMode::Read)?;
            let mut text = vec![0; usize::try_from(file.len()?).unwrap_or(0)];
            file.read_at(0, &mut text)?;
            let (Ok(id), Ok(blocks)) = (name.parse(), serde_json::from_slice(&text)) else {
                return Err(Error::new(ErrorKind::Corrupt, name));
            };
            let state = State {
                generation: 0,
                blocks,
            };
            layers.insert(LayerId(id), Arc::new(Mutex::new(state)));
        }
        let store = Self {
            disk,
            layers: Mutex::new(layers),
        };
        Ok((store, Recovery::default()))
    }

    fn state(&self, layer: LayerId) -> Arc<Mutex<State>> {
        Arc::clone(lock(&self.layers).entry(layer).or_default())
    }

    /// Opens a volume.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the contract of the real one"
    )]
    pub fn volume(&self, spec: VolumeSpec) -> Result<Arc<Volume>> {
        let state = self.state(spec.layer);
        let generation = lock(&state).generation;
        let disk = Arc::clone(&self.disk);
        Ok(Arc::new(Volume::new(
            disk, spec.layer, spec.image, state, generation,
        )))
    }

    /// Begins a new, empty generation.
    pub fn reset(&self, layer: LayerId) -> Result<()> {
        let state = self.state(layer);
        let mut state = lock(&state);
        state.generation += 1;
        state.blocks.clear();
        save(&*self.disk, layer, &state.blocks)
    }

    /// Ends every open volume of the layer; what it holds stays.
    pub fn fence(&self, layer: LayerId) -> Result<()> {
        lock(&self.state(layer)).generation += 1;
        Ok(())
    }

    /// Removes the layer.
    pub fn remove(&self, layer: LayerId) -> Result<()> {
        self.reset(layer)?;
        lock(&self.layers).remove(&layer);
        self.disk.remove(&path(layer))
    }

    /// How much it holds; `None` if there is no such layer.
    pub fn stats(&self, layer: LayerId) -> Option<LayerStats> {
        let state = Arc::clone(lock(&self.layers).get(&layer)?);
        let present_blocks = lock(&state).blocks.len() as u64;
        Some(LayerStats {
            present_blocks,
            zero_blocks: 0,
        })
    }

    /// Every layer that holds something.
    pub fn layers(&self) -> Vec<LayerId> {
        lock(&self.layers).keys().copied().collect()
    }
}

pub(super) const BLOCK: usize = BLOCK_BYTES as usize;
