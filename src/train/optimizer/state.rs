//! An optimizer's state as bytes: a safetensors file of tensors in 32 bits by parameter name, and for a rule that counts
//! its steps their number.

use burn::{
    module::Module,
    tensor::{DType, Tensor, TensorData},
};
use burn_resnet::ResNet;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::Optimizer;

/// The steps taken; no parameter is called so.
const NUM_STEPS: &str = "num_steps";
/// Names and shapes of a thousand parameters take less.
const HEADER_BYTES: usize = 1 << 20;

impl Optimizer {
    /// The tensors of the state, flat, in 32 bits, sorted by name: of SGD and LARS a velocity under each parameter's name,
    /// of LAMB `NAME.exp_avg` and `NAME.exp_avg_sq`.
    ///
    /// # Cost
    /// A read of all of them from the device.
    pub fn state(&self) -> Vec<(String, TensorData)> {
        let mut tensors: Vec<_> =
            self.tensors.iter().map(|(name, state)| (name.clone(), state.clone().into_data())).collect();
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        tensors
    }

    /// The whole state, the same bytes for the same state.
    ///
    /// # Errors
    /// Something that cannot be written as safetensors, in words.
    ///
    /// # Cost
    /// As [`state`](Self::state).
    pub fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let mut tensors = self.state();
        if self.num_steps > 0 {
            tensors.push((NUM_STEPS.into(), TensorData::from([self.num_steps])));
        }
        let views = tensors.iter().map(|(name, data)| {
            let dtype = if name == NUM_STEPS { Dtype::U64 } else { Dtype::F32 };
            TensorView::new(dtype, data.shape().to_vec(), data.as_bytes()).map(|view| (name.as_str(), view))
        });
        let views: Vec<_> = views.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
        safetensors::serialize(views, None).map_err(|error| error.to_string())
    }

    /// The most that [`to_bytes`](Self::to_bytes) can give.
    pub(in crate::train) fn bytes_max(&self, model: &ResNet) -> usize {
        4 * self.kinds().len() * model.config().num_params() as usize + HEADER_BYTES
    }

    /// Puts back a state that [`to_bytes`](Self::to_bytes) gave, onto the device of `model`, or nothing.
    ///
    /// # Errors
    /// Bytes that are not the state of this rule for this network, in words.
    pub fn restore(&mut self, bytes: &[u8], model: &ResNet) -> Result<(), String> {
        let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
        let device = model.devices().into_iter().next().unwrap_or_default().without_autodiff();
        let mut tensors: std::collections::HashMap<_, _> = file.tensors().into_iter().collect();
        let num_steps = match tensors.remove(NUM_STEPS) {
            None => 0,
            Some(view) => {
                let bytes = <[u8; 8]>::try_from(view.data()).ok().filter(|_| view.dtype() == Dtype::U64);
                bytes.map(u64::from_le_bytes).ok_or_else(|| format!("{NUM_STEPS} is no number of steps"))?
            }
        };
        let mut state = std::collections::HashMap::new();
        if !tensors.is_empty() {
            // A step moves every parameter, so there is something of each or of none.
            for param in model.params().into_iter().filter(|param| !param.is_buffer) {
                let expected = param.shape.iter().product::<usize>();
                for kind in self.kinds() {
                    let name = format!("{}{kind}", param.name);
                    let view = tensors.remove(&name).ok_or_else(|| format!("{name} is missing"))?;
                    let got = view.shape().iter().product::<usize>();
                    if got != expected || view.dtype() != Dtype::F32 {
                        let dtype = view.dtype();
                        return Err(format!(
                            "{name} has {got} values of {dtype:?}, expected {expected} of F32"
                        ));
                    }
                    let data = TensorData::from_bytes_vec(view.data().to_vec(), [got], DType::F32);
                    state.insert(name, Tensor::from_data(data, &device));
                }
            }
        }
        if let Some(name) = tensors.keys().min() {
            return Err(format!("{name} is left over"));
        }
        self.tensors = state;
        self.num_steps = num_steps;
        Ok(())
    }
}
