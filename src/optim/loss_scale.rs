#[derive(Debug, Clone, Copy)]
pub struct LossScaler {
    pub scale: f64,
    pub good_steps: u64,
    pub window: u64,
}
impl LossScaler {
    pub fn overflowed(&mut self) -> bool {
        self.good_steps = 0;
        self.scale *= 0.5;
        self.scale >= 1.0
    }
    pub fn stepped(&mut self) {
        self.good_steps += 1;
        if self.good_steps == self.window {
            self.good_steps = 0;
            self.scale *= 2.0;
        }
    }
}
