import { DomainError } from '../../lib/index.ts';
import type { Rooms } from '../operation.ts';

/**
 * The room whose resource the ARN names: images and connectors have tags here. The constraint layer lets every taggable
 * Lambda resource through (microVMs are none); those that this server has not are not found. GUESS: foreign-taggable
 */
export function taggedIn(arn: string, { images, connectors }: Rooms): Rooms['images'] | Rooms['connectors'] {
  const kind = arn.split(':')[5];
  if (kind === 'microvm-image') return images;
  if (kind === 'network-connector') return connectors;
  throw new DomainError('NOT_FOUND', `Resource not found: ${arn}`);
}
