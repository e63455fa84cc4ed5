//! An image: layers and a config, and what can be made wrong about it on purpose.

use serde_json::{Value, json};

use super::layer::LayerBuilder;
use super::write::{Blob, sha256};

/// An image to be written.
#[derive(Clone, Debug, Default)]
pub struct ImageBuilder {
    layers: Vec<LayerBuilder>,
    config: serde_json::Map<String, Value>,
}

/// The parts of an image, ready for a layout or an archive.
#[derive(Clone, Debug)]
pub struct Parts {
    pub layers: Vec<Blob>,
    /// The plain archives of the layers.
    pub tars: Vec<Vec<u8>>,
    pub config: Blob,
    pub manifest: Blob,
}

impl ImageBuilder {
    /// Nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more layer on top.
    pub fn layer(mut self, layer: LayerBuilder) -> Self {
        self.layers.push(layer);
        self
    }

    /// Any key of the config's `config` object (OCI image-spec, config.md).
    pub fn set(mut self, key: &str, value: Value) -> Self {
        self.config.insert(key.to_owned(), value);
        self
    }

    /// `Entrypoint`.
    pub fn entrypoint(self, words: &[&str]) -> Self {
        self.set("Entrypoint", json!(words))
    }

    /// `Cmd`.
    pub fn cmd(self, words: &[&str]) -> Self {
        self.set("Cmd", json!(words))
    }

    /// One more line of `Env`.
    pub fn env(mut self, line: &str) -> Self {
        let env = self.config.entry("Env").or_insert_with(|| json!([]));
        env.as_array_mut().unwrap().push(json!(line));
        self
    }

    /// One more of `ExposedPorts`.
    pub fn expose(mut self, port: &str) -> Self {
        let ports = self.config.entry("ExposedPorts").or_insert_with(|| json!({}));
        ports.as_object_mut().unwrap().insert(port.to_owned(), json!({}));
        self
    }

    /// Renders everything.
    pub fn parts(&self) -> Parts {
        let tars: Vec<Vec<u8>> = self.layers.iter().map(LayerBuilder::tar).collect();
        let diff_ids: Vec<String> = tars.iter().map(|tar| format!("sha256:{}", sha256(tar))).collect();
        let layers: Vec<Blob> = self
            .layers
            .iter()
            .zip(&tars)
            .map(|(layer, tar)| Self::layer_blob(layer, tar))
            .collect();
        let config = Blob::json(
            "application/vnd.oci.image.config.v1+json",
            &json!({ "architecture": architecture(), "os": "linux", "config": self.config,
                     "rootfs": { "type": "layers", "diff_ids": diff_ids } }),
        );
        let descriptors: Vec<Value> = layers.iter().map(Blob::descriptor).collect();
        let manifest = Blob::json(
            "application/vnd.oci.image.manifest.v1+json",
            &json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                     "config": config.descriptor(), "layers": descriptors }),
        );
        Parts {
            layers,
            tars,
            config,
            manifest,
        }
    }

    fn layer_blob(layer: &LayerBuilder, tar: &[u8]) -> Blob {
        let media_type = format!(
            "application/vnd.oci.image.layer.v1.tar{}",
            layer.compression.suffix()
        );
        Blob::new(&media_type, layer.compression.pack(tar))
    }
}

/// This machine's, as Go and so OCI call it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
