import type { Rooms } from '../operation.ts';

/** Connector operations are authorised on the connector's ARN, whatever it was named by. */
export async function arnOfConnector({ Identifier }: { Identifier: string }, { connectors }: Rooms): Promise<string> {
  return (await connectors.get(Identifier)).Arn;
}
