//! A module as a list of tensors, in the order in which a visitor meets them: read and replaced by place.
//!
//! Burn's parameter ids are drawn anew in every process; the order of visits and the names are the same in all.

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    tensor::{DType, Tensor, TensorData},
};

/// One float tensor of a module, without its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its path: fields and indices with points between them.
    pub(super) name: String,
    pub(super) id: ParamId,
    pub(super) shape: Vec<usize>,
    pub(super) dtype: DType,
    /// Whether it requires a gradient; else it is a buffer, such as a running statistic, or frozen.
    pub(super) trains: bool,
}

impl Entry {
    pub(super) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub(super) fn num_bytes(&self) -> usize {
        self.len() * self.dtype.size()
    }
}

/// A line for a person, and what ranks compare.
impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, shape, dtype, trains, .. } = self;
        write!(f, "{name} {shape:?} {}{}", dtype.name(), if *trains { "" } else { " without gradient" })
    }
}

/// All float tensors of `model`.
pub(super) fn entries<M: Module>(model: &M) -> Vec<Entry> {
    #[derive(Default)]
    struct Walk {
        path: Vec<String>,
        entries: Vec<Entry>,
    }
    impl ModuleVisitor for Walk {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.base();
            self.entries.push(Entry {
                name: self.path.join("."),
                id: param.id,
                shape: value.dims().to_vec(),
                dtype: value.dtype(),
                trains: value.is_require_grad(),
            });
        }
    }
    let mut walk = Walk::default();
    model.visit(&mut walk);
    walk.entries
}

/// Hands every float tensor's values to `read`, with its place.
///
/// Updates of running statistics that other threads left pending are applied first; a visitor would miss them.
pub(super) fn read<M: Module>(model: &M, read: impl FnMut(usize, TensorData)) {
    struct Read<F> {
        at: usize,
        read: F,
    }
    impl<F: FnMut(usize, TensorData)> ModuleVisitor for Read<F> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            (self.read)(self.at, param.base().into_data());
            self.at += 1;
        }
    }
    drop(model.valid());
    model.visit(&mut Read { at: 0, read });
}

/// Replaces the values of those float tensors for which `write` has new ones, on their devices and with their ids.
pub(super) fn write<M: Module>(model: M, write: impl FnMut(usize) -> Option<TensorData>) -> M {
    struct Write<F> {
        at: usize,
        write: F,
    }
    impl<F: FnMut(usize) -> Option<TensorData>> ModuleMapper for Write<F> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let data = (self.write)(self.at);
            self.at += 1;
            let Some(data) = data else { return param };
            param.map(|old| {
                let device = old.device();
                let dtype = data.dtype();
                let plain = Tensor::from_data(data, (&device.clone().without_autodiff(), dtype));
                if !device.is_autodiff() {
                    return plain;
                }
                Tensor::from_inner(plain).set_require_grad(old.is_require_grad())
            })
        }
    }
    // A pending update of a running statistic would overwrite what is written here.
    drop(model.valid());
    model.map(&mut Write { at: 0, write })
}
