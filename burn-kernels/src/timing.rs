#![allow(missing_docs)]
use std::{collections::BTreeMap, sync::Mutex, time::Instant};
static T: Mutex<BTreeMap<String, (u32, f64)>> = Mutex::new(BTreeMap::new());
pub struct Timer(String, Instant);
impl Timer { pub fn new(name: impl Into<String>) -> Self { Self(name.into(), Instant::now()) } }
impl Drop for Timer { fn drop(&mut self) { let mut t = T.lock().unwrap(); let e = t.entry(self.0.clone()).or_default(); e.0 += 1; e.1 += self.1.elapsed().as_secs_f64(); } }
pub fn dump() { let mut t = T.lock().unwrap(); let mut sums: BTreeMap<String,(u32,f64)> = BTreeMap::new(); for (k, v) in t.iter() { let e = sums.entry(k.split(' ').next().unwrap().into()).or_default(); e.0 += v.0; e.1 += v.1; if std::env::var("DETAIL").is_ok() { eprintln!("{k}: {} x {:.3} ms", v.0, v.1/v.0 as f64*1e3); } } for (k, v) in sums { eprintln!("SUM {k}: {} calls {:.1} ms", v.0, v.1*1e3); } t.clear(); }
