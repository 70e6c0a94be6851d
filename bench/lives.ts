/**
 * Plays random lives of microVMs against the model, as many as asked:
 *
 *   node bench/lives.ts [count, default 100000] [first seed, default 1]
 *
 * A failure is printed with its seed and the shortest sequence found; put that into src/microvms/property/found.ts.
 */
import { playMany } from '../src/microvms/property/many.ts';

const [count = 100_000, first = 1] = process.argv.slice(2).map(Number);
const startedAt = performance.now();
const failure = await playMany({
  first,
  count,
  onProgress: (played) => {
    if (played % 5000 === 0) console.log(`${played} lives, ${Math.round((performance.now() - startedAt) / 1000)} s`);
  },
});
if (failure === undefined) {
  console.log(`${count} lives kept to the model in ${Math.round((performance.now() - startedAt) / 1000)} s`);
} else {
  console.log(`seed ${failure.seed}:\n${failure.objections.join('\n')}\n${JSON.stringify(failure.sequence)}`);
  process.exitCode = 1;
}
