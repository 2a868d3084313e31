#![allow(missing_docs)]
use burn::tensor::{Device, Distribution, Tensor, ops::ConvOptions, module::{conv2d, batch_norm_train}, activation::relu};
use std::time::Instant;
fn time(name: &str, n: usize, mut f: impl FnMut()) { f(); let mut ts=vec![]; for _ in 0..n { let t = Instant::now(); f(); ts.push(t.elapsed().as_secs_f64()*1e3);} ts.sort_by(f64::total_cmp); println!("{name:40} median {:.2} ms min {:.2}", ts[n/2], ts[0]); }
fn main() {
    let d = Device::flex(); let ad = Device::flex().autodiff();
    let b = 128;
    for (ci,co,s,st) in [(1usize,16usize,28usize,1usize),(16,16,28,1),(16,32,28,2),(32,32,14,1),(32,64,14,2),(64,64,7,1)] {
        let opt = || ConvOptions::new([st,st],[1,1],[1,1],1);
        let x = Tensor::<4>::random([b,ci,s,s], Distribution::Default, &d);
        let w = Tensor::<4>::random([co,ci,3,3], Distribution::Default, &d);
        let gflop = 2.0*(b*ci*co*9*(s/st)*(s/st)) as f64/1e9;
        println!("--- {ci}->{co} @{s}/{st} {gflop:.3} GFLOP");
        time("fwd", 5, || { let y = conv2d(x.clone(), w.clone(), None, opt()); let _ = y.into_data(); });
        let xa = Tensor::<4>::from_inner(x.clone()).to_device(&ad); 
        let _ = &xa;
        let xg = Tensor::<4>::from_data(x.clone().into_data(), &ad).require_grad();
        let wg = Tensor::<4>::from_data(w.clone().into_data(), &ad).require_grad();
        let xn = Tensor::<4>::from_data(x.clone().into_data(), &ad);
        let wn = Tensor::<4>::from_data(w.clone().into_data(), &ad);
        time("fwd+wgrad", 5, || { let y = conv2d(xn.clone(), wg.clone(), None, opt()); let mut g = y.backward(); let _ = wg.grad_remove(&mut g).unwrap().into_data(); });
        time("fwd+dgrad", 5, || { let y = conv2d(xg.clone(), wn.clone(), None, opt()); let mut g = y.backward(); let _ = xg.grad_remove(&mut g).unwrap().into_data(); });
        let so = s/st;
        let y = Tensor::<4>::random([b,co,so,so], Distribution::Default, &ad).require_grad();
        let ga = Tensor::<1>::ones([co], &ad).require_grad(); let be = Tensor::<1>::zeros([co], &ad).require_grad();
        time("bn fwd+bwd", 5, || { let o = batch_norm_train(y.clone(), ga.clone(), be.clone(), 1e-5); let mut g = o.output.backward(); let _ = y.grad_remove(&mut g).unwrap().into_data(); });
        time("relu fwd+bwd", 5, || { let o = relu(y.clone()); let mut g = o.backward(); let _ = y.grad_remove(&mut g).unwrap().into_data(); });
        time("add", 5, || { let o = y.clone().inner() + y.clone().inner(); let _ = o.into_data(); });
    }
}
