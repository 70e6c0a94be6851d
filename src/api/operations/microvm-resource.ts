import type { Rooms } from '../operation.ts';

/** A microVM's operations are authorised on the image it came from (recorded for all of them, the tokens included). */
export async function imageOfMicrovm(input: { microvmIdentifier: string }, { microvms }: Rooms): Promise<string> {
  return (await microvms.get(input.microvmIdentifier)).imageArn;
}
