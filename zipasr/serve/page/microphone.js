// The part that runs in the audio thread: blocks of a microphone in, Float32Arrays of mono samples at 16 kHz out.

const RATE_HZ = 16000, NUM_SAMPLES = 1600;

class Microphone extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(NUM_SAMPLES);
    this.numHeld = 0;
    this.position = 0; // fraction of the next output sample that the input has covered
    this.sum = 0;
    this.numSummed = 0;
  }

  // If the browser records at another rate, each output sample is the mean of the input samples that it covers.
  process([channels]) {
    if (!channels.length) return true;
    for (let i = 0; i < channels[0].length; i++) {
      let value = 0;
      for (const channel of channels) value += channel[i] / channels.length;
      this.sum += value;
      this.numSummed++;
      this.position += RATE_HZ / sampleRate;
      if (this.position >= 1) {
        const mean = this.sum / this.numSummed;
        for (; this.position >= 1; this.position -= 1) this.push(mean); // more than once below 16 kHz
        this.sum = this.numSummed = 0;
      }
    }
    return true;
  }

  push(value) {
    this.block[this.numHeld++] = value;
    if (this.numHeld === NUM_SAMPLES) {
      this.port.postMessage(this.block.slice());
      this.numHeld = 0;
    }
  }
}

registerProcessor("microphone", Microphone);
