/** Derived signing keys, kept for the day they are good for: deriving one takes four HMACs, and every request needs one. */
import { createHmac } from 'node:crypto';

/** More keys than this in a day are derived again and again, which is slow and nothing else. */
const MAX_KEYS = 1000;

export class SigningKeys {
  readonly #keys = new Map<string, Buffer>();

  /** The key that signs requests of `secret` in this scope. `date` is `YYYYMMDD`. */
  get(secret: string, date: string, region: string, service: string): Buffer {
    const id = `${date}/${region}/${service}/${secret}`;
    const known = this.#keys.get(id);
    if (known !== undefined) return known;
    const step = (key: string | Buffer, text: string) => createHmac('sha256', key).update(text).digest();
    const made = step(step(step(step(`AWS4${secret}`, date), region), service), 'aws4_request');
    // Days pass and keys are revoked: forgetting all now and then costs less than knowing which to forget.
    if (this.#keys.size >= MAX_KEYS) this.#keys.clear();
    this.#keys.set(id, made);
    return made;
  }
}
